"""Values on their way through native code: where they lie and in which layout.

A buffer is one value's memory, not yet placed. Sizes may depend on symbols; the memory plan gives
every buffer of the arena an offset once the symbols are bound.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, auto

import numpy as np

from engine.cpu.image_layout import ImageLayout
from engine.cpu.kernel import Kernel
from engine.dtypes import DType
from engine.ir.graph import Node
from engine.ir.types import Dim, Shape, element_count


class Place(Enum):
    """Whose memory a buffer lies in."""

    ARENA = auto()  # the plan's own, reused as values die
    WEIGHTS = auto()  # fixed values
    INPUT = auto()  # the caller's array
    OUTPUT = auto()  # an array that the caller gets


@dataclass(frozen=True)
class PlainLayout:
    """A dense row-major array, as numpy has it."""

    shape: Shape
    dtype: DType

    @property
    def size_bytes(self) -> Dim:
        """Bytes of the whole array."""
        return element_count(self.shape) * self.dtype.itemsize


Layout = PlainLayout | ImageLayout


@dataclass(eq=False)
class Buffer:
    """One value's memory.

    Attributes:
        name: The value, for messages and dumps.
        layout: How it lies there.
        size_bytes: Its size (of the part it takes of `parent`: from its first byte to its last).
        place: Whose memory.
        parent: A buffer that this one is a part of (a view), or None.
        offset: Bytes from the parent's beginning.
        index: Number of the input or output of the region, or of the fixed value.
    """

    name: str
    layout: Layout
    size_bytes: Dim
    place: Place = Place.ARENA
    parent: Buffer | None = None
    offset: int = 0
    index: int = 0

    @property
    def root(self) -> tuple[Buffer, int]:
        """The buffer that owns the memory, and the bytes from its beginning."""
        buffer, offset = self, 0
        while buffer.parent is not None:
            offset += buffer.offset
            buffer = buffer.parent
        return buffer, offset

    @property
    def image(self) -> ImageLayout:
        """The layout, which must be a picture's."""
        if not isinstance(self.layout, ImageLayout):
            raise TypeError(f"{self.name} is a plain array, expected a picture")
        return self.layout

    @property
    def plain(self) -> PlainLayout:
        """The layout, which must be a plain array's."""
        if not isinstance(self.layout, PlainLayout):
            raise TypeError(f"{self.name} is a picture, expected a plain array")
        return self.layout


@dataclass(frozen=True, eq=False)
class StridedView:
    """An array whose elements lie at any strides in a buffer, for those who can read it so.

    Attributes:
        buffer: The memory.
        shape: The sizes of its axes.
        strides: Elements from one place to the next along each axis.
        first: Elements in front of the first one.
    """

    buffer: Buffer
    shape: Shape
    strides: tuple[Dim, ...]
    first: Dim = 0


@dataclass(frozen=True, eq=False)
class HalfRows:
    """An array whose rows lie as products want them: as bfloat16, or with room between them.

    Attributes:
        buffer: The memory.
        pitch: Elements from one row to the next.
    """

    buffer: Buffer
    pitch: int


@dataclass(frozen=True, eq=False)
class Weights:
    """A fixed value as a kernel wants it, packed when it is needed.

    Attributes:
        key: Names content and packing within one graph; equal keys, equal bytes.
        pack: Makes the array.
    """

    key: str
    pack: Callable[[], np.ndarray]


@dataclass(frozen=True, eq=False)
class Step:
    """One kernel with what it works on.

    Attributes:
        kernel: The native code.
        writes: The first operands.
        reads: The other operands.
        numbers: Run-time numbers for the kernel.
        tasks: How many tasks there are to share; 0 does nothing.
        node: What it computes, for the profile. A node may take several steps.
        in_place: Whether output 0 may take the memory of a read operand that dies here, element by
            element: the kernel reads every element before it writes that element, and no other.
    """

    kernel: Kernel
    writes: tuple[Buffer, ...]
    reads: tuple[Buffer, ...]
    numbers: tuple[Dim, ...]
    tasks: Dim
    node: Node
    in_place: bool = False


@dataclass(frozen=True, eq=False)
class Fault:
    """What a kernel finds wrong only while it runs, such as an index that is out of range.

    Attributes:
        buffer: One int64 of place OUTPUT, of index -1 for the first fault, -2 for the second...; it
            is 0 before the run, and not 0 after it if something was wrong.
        node: Whose input it is.
        message: What was wrong.
    """

    buffer: Buffer
    node: Node
    message: str


@dataclass(frozen=True, eq=False)
class Requirement:
    """Two sizes that a program takes to be equal, which only bound symbols can tell."""

    left: Dim
    right: Dim
    node: Node
    message: str


@dataclass(eq=False)
class Program:
    """The steps of one region in order, with what goes in, comes out and is fixed."""

    steps: list[Step] = field(default_factory=list)
    inputs: list[Buffer] = field(default_factory=list)
    outputs: list[Buffer] = field(default_factory=list)
    weights: list[Weights] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    requirements: list[Requirement] = field(default_factory=list)
