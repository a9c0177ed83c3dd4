"""A child process that compiles kernels: specifications come in as lines, object files go out.

    in    {"name": ..., "target": ..., "kernel": ...}, one JSON object per line
    out   8 bytes: length of the object file that follows; 0 where it could not be made

`COMMAND` starts it without the rest of the engine, which takes longer to import than a kernel to
compile: a bare module stands in for the package, whose own __init__ would bring it in.
"""

from __future__ import annotations

import json
import os
import struct
import sys
from pathlib import Path
from typing import Final

from engine.cpu.native import compile_kernel
from engine.cpu.spec_json import read_spec

LENGTH: Final = struct.Struct("<Q")
NICE: Final = 10
_BOOT: Final = """
import runpy, sys, types
package = types.ModuleType("engine")
package.__path__ = [sys.argv[1]]
sys.modules["engine"] = package
runpy.run_module(sys.argv[2], run_name="__main__")
"""
_PACKAGE_FOLDER: Final = Path(__file__).resolve().parent.parent


def command_of(module: str) -> tuple[str, ...]:
    """Return the command that runs a module of the engine without the package's own __init__."""
    return sys.executable, "-P", "-c", _BOOT, str(_PACKAGE_FOLDER), module


COMMAND: Final = command_of("engine.cpu.compile_worker")


def main() -> int:
    """Serve until the input ends."""
    os.nice(NICE)
    out = sys.stdout.buffer
    for line in sys.stdin:
        job = json.loads(line)
        try:
            kernel, target = read_spec(job["kernel"]), read_spec(job["target"])
            code = compile_kernel(kernel, job["name"], target)
        except Exception:  # the parent compiles it in its own process and meets the error there
            code = b""
        out.write(LENGTH.pack(len(code)) + code)
        out.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
