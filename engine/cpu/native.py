"""From a kernel to machine code in this process: LLVM text, an object file, an address."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Sequence
from typing import Any, Final

import llvmlite.binding as llvm
import llvmlite.ir as ir

from engine.cpu.kernel import Kernel
from engine.cpu.target import Target


def emit_text(kernel: Kernel, name: str, target: Target) -> str:
    """Return a kernel as LLVM IR."""
    module = ir.Module(name)
    module.triple = target.triple
    kernel.emit(module, name, target)
    return _with_loops_marked(str(module))


_LOOP: Final = re.compile(r"!llvm\.loop !\d+")
_FIRST_NODE: Final = 1_000_000  # far above the numbers that llvmlite gives


def _with_loops_marked(text: str) -> str:
    """Give every loop that must not be unrolled a mark of its own.

    LLVM heeds only a node whose first entry is the node itself, which llvmlite cannot write.
    """
    nodes = [f'!{_FIRST_NODE} = !{{!"llvm.loop.unroll.disable"}}']

    def mark(_: re.Match[str]) -> str:
        number = _FIRST_NODE + len(nodes)
        nodes.append(f"!{number} = distinct !{{!{number}, !{_FIRST_NODE}}}")
        return f"!llvm.loop !{number}"

    marked = _LOOP.sub(mark, text)
    return "\n".join([marked, *nodes, ""]) if len(nodes) > 1 else text


def compile_text(text: str, target: Target) -> bytes:
    """Return the object file of LLVM IR, verified and optimised."""
    machine = target.machine()
    module = llvm.parse_assembly(text)
    module.verify()
    options = llvm.create_pipeline_tuning_options(speed_level=2)
    options.loop_vectorization = False  # kernels are written in vectors; LLVM's own would add tails
    options.slp_vectorization = False
    passes = llvm.create_pass_builder(machine, options)
    passes.getModulePassManager().run(module, passes)
    code: bytes = machine.emit_object(module)
    return code


def compile_kernel(kernel: Kernel, name: str, target: Target) -> bytes:
    """Return the object file of a kernel."""
    return compile_text(emit_text(kernel, name, target), target)


class LoadedObject:
    """Object files linked into this process; their code lives as long as this object.

    Several together load in a fraction of the time that one by one would take.
    """

    def __init__(self, code: bytes | Sequence[bytes], target: Target) -> None:
        codes = [code] if isinstance(code, bytes) else code
        self._engine: Any = llvm.create_mcjit_compiler(llvm.parse_assembly(""), target.machine())
        for each in codes:
            self._engine.add_object_file(llvm.ObjectFileRef.from_data(each))
        self._engine.finalize_object()
        self.code_bytes = sum(map(len, codes))

    def address(self, name: str) -> int:
        """Return where a function begins; `KeyError` when there is none of this name."""
        found: int = self._engine.get_function_address(name)
        if not found:
            raise KeyError(name)
        return found

    def function(self, name: str, *parameters: Any, result: Any = None) -> Any:
        """Return a function that Python can call, without the GIL."""
        return ctypes.CFUNCTYPE(result, *parameters)(self.address(name))
