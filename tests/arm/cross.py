"""A pytest plugin for tests that run under an emulator: kernels are compiled outside of it.

LLVM under emulation takes most of a test's time, and for the same target gives the same code as
anywhere. Where `MILLRACE_COMPILE_PYTHON` names an interpreter of the machine that emulates, with
the same llvmlite, `-p tests.arm.cross` has it compile what has a form in JSON; all else, and what
it fails at, is compiled where the test runs. Without the variable the plugin does nothing.
"""

from __future__ import annotations

import json
import os
import subprocess
import threading
from contextlib import suppress

from engine.cpu import compile_worker, native, parallel_compile
from engine.cpu.kernel import Kernel
from engine.cpu.spec_json import NotPlain, write_spec
from engine.cpu.target import Target

VARIABLE = "MILLRACE_COMPILE_PYTHON"


def command(python: str) -> tuple[str, ...]:
    """Return what starts a compiler on another interpreter, whatever this one's variables are."""
    plain = ("env", "-u", "PYTHONHOME", "-u", "PYTHONPATH", "-u", "PYTHONPYCACHEPREFIX")
    return (*plain, python, *compile_worker.COMMAND[1:])


class OutsideCompiler:
    """Compiles kernels in one child process. Thread-safe."""

    def __init__(self, python: str) -> None:
        self._lock = threading.Lock()
        self._child = subprocess.Popen(
            command(python), stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd="/"
        )
        self._compile_here = native.compile_kernel
        self.compiled = 0

    def compile_kernel(self, kernel: Kernel, name: str, target: Target) -> bytes:
        """Return the object file of a kernel, as `engine.cpu.native.compile_kernel` does."""
        try:
            spec, processor = write_spec(kernel), write_spec(target)
        except NotPlain:
            return self._compile_here(kernel, name, target)
        job = json.dumps({"name": name, "target": processor, "kernel": spec})
        with self._lock:
            code = self._ask(job.encode() + b"\n")
        if not code:  # here, too, to have the error
            return self._compile_here(kernel, name, target)
        self.compiled += 1
        return code

    def _ask(self, line: bytes) -> bytes:
        assert self._child.stdin is not None and self._child.stdout is not None
        with suppress(BrokenPipeError):  # then nothing comes back, either
            self._child.stdin.write(line)
            self._child.stdin.flush()
        head = self._child.stdout.read(compile_worker.LENGTH.size)
        if len(head) < compile_worker.LENGTH.size:
            raise RuntimeError(f"{VARIABLE}: the interpreter that it names ended")
        return self._child.stdout.read(compile_worker.LENGTH.unpack(head)[0])

    def close(self) -> None:
        """End the child."""
        self._child.communicate()


def install(python: str) -> OutsideCompiler:
    """Compile in another interpreter from here on; before tests import what compiles."""
    compiler = OutsideCompiler(python)
    for module in (native, parallel_compile):
        module.compile_kernel = compiler.compile_kernel  # type: ignore[attr-defined]
    parallel_compile.COMMAND = command(python)  # type: ignore[assignment, attr-defined]
    return compiler


if outside := os.environ.get(VARIABLE):
    install(outside)
