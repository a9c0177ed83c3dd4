"""The child's side of `isolate`: bind itself, compile one file into an artifact (or put a
classifier on it), report as JSON.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from engine.artifact_compiler import compile_to_file
from engine.device import CompileOptions
from engine.heads import ORDER_KEY, append_in_place
from engine.isolate import enter_limits, error_to_json, failure_of
from engine.request_json import read_request


def main(source: Path, artifact: Path) -> int:
    """Compile `source` as the JSON on stdin asks; return the exit status, errors go to stdout."""
    order = json.load(sys.stdin)
    enter_limits(order["memory_bytes"], order["cpu_s"])
    memory_bytes = order["memory_bytes"]
    error = failure_of(
        lambda: _compile(source, artifact, order), f"compiling {source.name}", memory_bytes
    )
    if error is None:
        return 0
    sys.stdout.buffer.write(error_to_json(error))
    return 1


def _compile(source: Path, artifact: Path, order: dict[str, Any]) -> None:
    if ORDER_KEY in order:
        append_in_place(source, artifact, order)
        return
    request = read_request(order)
    options = CompileOptions(request.limits, precision=order.get("device_precision", "fp32"))
    compile_to_file(source, artifact, request, order.get("device", ""), options)
