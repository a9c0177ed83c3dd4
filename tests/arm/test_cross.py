"""What is compiled outside of an emulator is what would have been compiled inside."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from engine.cpu.kernel import Kernel
from engine.cpu.kernels.fill import Fill
from engine.cpu.native import compile_kernel
from engine.cpu.target import target_for
from tests.arm.cross import OutsideCompiler, command

NEON = target_for("neon")


@dataclass(frozen=True)
class Unknown(Kernel):
    """A kernel that no other process knows."""

    def emit(self, module: Any, name: str, target: Any) -> None:
        Fill(4).emit(module, name, target)


@pytest.fixture
def outside() -> Iterator[OutsideCompiler]:
    compiler = OutsideCompiler(sys.executable)
    yield compiler
    compiler.close()


def test_the_same_code_as_here(outside: OutsideCompiler) -> None:
    for size in (4, 8):
        code = outside.compile_kernel(Fill(size), "f", NEON)
        assert code == compile_kernel(Fill(size), "f", NEON)
    assert outside.compiled == 2


def test_what_cannot_be_sent_is_compiled_here(outside: OutsideCompiler) -> None:
    code = outside.compile_kernel(Unknown(), "f", NEON)
    assert code == compile_kernel(Fill(4), "f", NEON)
    assert outside.compiled == 0


def test_what_cannot_be_compiled_says_why(outside: OutsideCompiler) -> None:
    with pytest.raises(Exception) as here:
        compile_kernel(Fill("no number"), "f", NEON)  # type: ignore[arg-type]
    with pytest.raises(type(here.value)):
        outside.compile_kernel(Fill("no number"), "f", NEON)  # type: ignore[arg-type]
    assert outside.compiled == 0


def test_an_interpreter_that_ends_is_an_error() -> None:
    compiler = OutsideCompiler("false")
    with pytest.raises(RuntimeError, match="MILLRACE_COMPILE_PYTHON"):
        compiler.compile_kernel(Fill(4), "f", NEON)
    compiler.close()


def test_the_child_does_not_take_over_the_emulators_python() -> None:
    words = command("python3")
    unset = [words[i + 1] for i, word in enumerate(words) if word == "-u"]
    assert {"PYTHONHOME", "PYTHONPATH"} <= set(unset)
