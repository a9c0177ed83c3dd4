"""Programs as JSON and back: steps, buffers, sizes as text. Their fixed values and their code lie
beside them in the same file.

What a program says of its kernels is where their code is found, how much memory they need and what
profiles call them; specifications are not kept, for nothing is compiled from what is read back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass
from functools import lru_cache
from typing import Any

import llvmlite.ir as ir

from engine.cpu.buffers import (
    Buffer,
    Fault,
    Layout,
    Place,
    PlainLayout,
    Program,
    Requirement,
    Step,
)
from engine.cpu.image_layout import ImageLayout
from engine.cpu.kernel import Kernel
from engine.cpu.target import Target
from engine.dtypes import DType
from engine.ir.graph import Node
from engine.ir.types import Dim, parse_dim

Json = Any


@dataclass(frozen=True)
class StoredKernel(Kernel):
    """A kernel whose code was made before.

    Attributes:
        name: What profiles call it.
        scratch: Bytes of memory that one thread needs.
        key: Names its code.
    """

    name: str
    scratch: int
    key: str

    @property
    def label(self) -> str:
        """What profiles call it."""
        return self.name

    def scratch_bytes(self, target: Target) -> int:
        """Return the bytes of scratch memory that one thread needs."""
        return self.scratch

    def emit(self, module: ir.Module, name: str, target: Target) -> None:
        """Refuse: the specification is not known any more."""
        raise NotImplementedError(f"the code of {self.name} lies in the artifact")


class ProgramWriter:
    """Turns programs into JSON. `kernels` and `node` number what the programs refer to."""

    def __init__(self, kernels: Mapping[Kernel, int], node: Callable[[Node], int]) -> None:
        self._kernels, self._node = kernels, node
        self._numbers: dict[int, int] = {}
        self._buffers: list[Json] = []

    def program(self, program: Program, weights: Sequence[int]) -> Json:
        """Return a program; `weights` are the blobs of its fixed values, in order."""
        self._numbers, self._buffers = {}, []
        body = {
            "inputs": [self._buffer(b) for b in program.inputs],
            "outputs": [self._buffer(b) for b in program.outputs],
            "weights": list(weights),
            "steps": [self._step(s) for s in program.steps],
            "faults": [
                [self._buffer(f.buffer), self._node(f.node), f.message] for f in program.faults
            ],
            "requirements": [
                [write_dim(r.left), write_dim(r.right), self._node(r.node), r.message]
                for r in program.requirements
            ],
        }
        return {**body, "buffers": self._buffers}

    def _step(self, step: Step) -> Json:
        return [
            self._kernels[step.kernel],
            [self._buffer(b) for b in step.writes],
            [self._buffer(b) for b in step.reads],
            [write_dim(d) for d in step.numbers],
            write_dim(step.tasks),
            self._node(step.node),
            step.in_place,
        ]

    def _buffer(self, buffer: Buffer) -> int:
        """Return a buffer's number; parents come before their parts."""
        number = self._numbers.get(id(buffer))
        if number is None:
            parent = None if buffer.parent is None else self._buffer(buffer.parent)
            number = self._numbers[id(buffer)] = len(self._buffers)
            self._buffers.append(
                [
                    buffer.name,
                    _write_layout(buffer.layout),
                    write_dim(buffer.size_bytes),
                    buffer.place.name,
                    parent,
                    buffer.offset,
                    buffer.index,
                ]
            )
        return number


def read_program(data: Json, kernels: Sequence[Kernel], nodes: Sequence[Node]) -> Program:
    """Return the program that a `ProgramWriter` wrote; its fixed values are not part of it."""
    buffers: list[Buffer] = []
    for name, layout, size, place, parent, offset, index in data["buffers"]:
        within = None if parent is None else buffers[parent]
        kind = _read_layout(layout)
        buffers.append(Buffer(name, kind, read_dim(size), Place[place], within, offset, index))
    steps = [
        Step(
            kernels[kernel],
            tuple([buffers[b] for b in writes]),
            tuple([buffers[b] for b in reads]),
            tuple(map(read_dim, numbers)),
            read_dim(tasks),
            nodes[node],
            in_place,
        )
        for kernel, writes, reads, numbers, tasks, node, in_place in data["steps"]
    ]
    return Program(
        steps=steps,
        inputs=[buffers[b] for b in data["inputs"]],
        outputs=[buffers[b] for b in data["outputs"]],
        faults=[Fault(buffers[b], nodes[node], message) for b, node, message in data["faults"]],
        requirements=[
            Requirement(read_dim(left), read_dim(right), nodes[node], message)
            for left, right, node, message in data["requirements"]
        ],
    )


def write_dim(dim: Dim) -> Json:
    """Return a size as JSON: a number, or the text of an expression."""
    return dim if isinstance(dim, int) else str(dim)


def read_dim(data: Json) -> Dim:
    """Return the size that `write_dim` wrote."""
    return data if isinstance(data, int) else _parsed(data)


@lru_cache(4096)
def _parsed(text: str) -> Dim:
    return parse_dim(text)


def _write_layout(layout: Layout) -> Json:
    if isinstance(layout, PlainLayout):
        return [layout.dtype.value, [write_dim(d) for d in layout.shape]]
    *sizes, dtype = astuple(layout)
    return [DType(dtype).value, None, *sizes]


def _read_layout(data: Json) -> Layout:
    dtype, shape, *sizes = data
    if shape is None:
        height, width, channels, held, pitch, border = sizes
        return ImageLayout(height, width, channels, held, pitch, border, DType(dtype))
    return PlainLayout(tuple(map(read_dim, shape)), DType(dtype))
