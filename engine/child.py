"""The child's side of `isolate`: bind itself, compile one file into an artifact (or put a
classifier on it), report as JSON.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from engine.artifact_compiler import compile_to_file
from engine.device import CompileOptions
from engine.errors import EngineError, InvalidModel, ResourceLimit
from engine.heads import ORDER_KEY, append_in_place
from engine.isolate import enter_limits, error_to_json
from engine.request_json import read_request


def main(source: Path, artifact: Path) -> int:
    """Compile `source` as the JSON on stdin asks; return the exit status, errors go to stdout."""
    order = json.load(sys.stdin)
    enter_limits(order["memory_bytes"], order["cpu_s"])
    try:
        if ORDER_KEY in order:
            append_in_place(source, artifact, order)
            return 0
        request = read_request(order)
        options = CompileOptions(request.limits, precision=order.get("device_precision", "fp32"))
        compile_to_file(source, artifact, request, order.get("device", ""), options)
    except EngineError as error:
        return _report(error)
    except MemoryError:
        return _report(
            ResourceLimit(
                f"compiling {source.name}", "more memory", f"{order['memory_bytes']} bytes"
            )
        )
    except OSError as error:  # a full disk, or a folder gone: not the model's fault
        return _report(ResourceLimit(f"compiling {source.name}", error, "the disk there is"))
    except Exception as error:  # a fault of ours on this file: the file is not usable either way
        return _report(InvalidModel(f"compiling failed: {type(error).__name__}: {error}"))
    return 0


def _report(error: EngineError) -> int:
    sys.stdout.buffer.write(error_to_json(error))
    return 1
