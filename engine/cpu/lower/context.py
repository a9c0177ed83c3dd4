"""What a lowering rule works with: buffers for a node's values, and a list of steps to add to.

A rule looks at its node, gets its inputs in the layout that its kernel wants (conversions are added
where needed and remembered), declares its outputs, and adds steps. What it cannot do is a
`NoKernel`, raised before anything is declared: the node then runs from its portable definition.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

import numpy as np

from engine.cpu.buffers import (
    Buffer,
    Fault,
    HalfRows,
    Layout,
    Place,
    PlainLayout,
    Program,
    Requirement,
    Step,
    StridedView,
    Weights,
)
from engine.cpu.image_layout import ImageLayout
from engine.cpu.kernel import Kernel
from engine.cpu.kernels.numbers import WriteNumbers
from engine.cpu.lower.rules import DEFINED, RULES, NoKernel
from engine.cpu.target import Target
from engine.dtypes import DType
from engine.ir.graph import Graph, Node
from engine.ir.types import Dim, Shape, SymDim, TensorType, element_count, is_static
from engine.ops.registry import REGISTRY, Operator, Registry

MAX_PICTURE_BYTES = 1 << 30  # a border of absurd size is better left to the portable definition

Converter = Callable[["Lowering", Buffer, Buffer, Node], None]
BYTES: Final = (DType.INT8, DType.UINT8)
UNREADABLE: Final = "its rule cannot read it"  # begins the reason why a malformed node is portable


class Lowering:
    """The program of one region under construction.

    Attributes:
        graph: The graph around; types and fixed values are read from it.
        target: The processor.
        precision: "fp32" or "bf16": how contractions may compute.
        program: What has been lowered so far.
        rounded: Pictures rounded to bfloat16, by what they are rounded from.
        halves: Plain arrays that lie as bfloat16, or with room between their rows
            (`lower/half_rows.py`), by name; those that lie densely, too, are found as any other.
        winograd: Whether 3 x 3 convolutions may take fewer products than they have. Off only where
            one wants to count them.
    """

    winograd: bool = True

    def __init__(
        self,
        graph: Graph,
        nodes: Sequence[Node],
        target: Target,
        *,
        inputs: Sequence[str],
        outputs: Sequence[str],
        registry: Registry = REGISTRY,
        symbolic: Mapping[str, np.ndarray] | None = None,
        precision: str = "fp32",
        borders: Mapping[str, int] | None = None,
        places: Mapping[str, tuple[str, int]] | None = None,
        fills: Mapping[str, int] | None = None,
    ) -> None:
        """Prepare a region.

        Args:
            graph: The graph around.
            nodes: The nodes of the region, in order.
            target: The processor.
            inputs: Names that the region gets.
            outputs: Names that others read.
            registry: The operators.
            symbolic: Integers known as dims: arrays of numbers and dims, by name.
            precision: How contractions may compute.
            borders: How much border the picture of a name should have.
            places: Pictures to be written right into a wider one: name -> (name of the wider
                value, first channel there).
            fills: What the border of a picture of bytes holds, by name: the byte that means zero.
        """
        self.graph, self.target, self.precision = graph, target, precision
        self.program = Program()
        self._registry = registry
        self._symbolic = symbolic or {}
        self.rounded: dict[Buffer, Buffer] = {}
        self.halves: dict[str, HalfRows] = {}
        self._unfinished: set[str] = set()
        self._plain: dict[str, Buffer] = {}
        self._image: dict[str, Buffer] = {}
        self._strided: dict[str, StridedView] = {}
        self._weights: dict[str, Buffer] = {}
        self._borders = borders or {}
        self._places = places or {}
        self._fills = fills or {}
        self._wanted, self._last = tuple(outputs), nodes[-1]
        self._direct = self._directly_written(nodes)
        for index, name in enumerate(inputs):
            layout = PlainLayout(self.shape(name), self.dtype(name))
            buffer = Buffer(name, layout, layout.size_bytes, Place.INPUT, index=index)
            self._plain[name] = buffer
            self.program.inputs.append(buffer)

    def _directly_written(self, nodes: Sequence[Node]) -> frozenset[str]:
        computed = {name for node in nodes for name in node.outputs}
        return frozenset(name for name in self._wanted if name in computed)

    # ------------------------------------------------------------------ what is known

    def dtype(self, name: str) -> DType:
        """Return a value's element type."""
        return self._tensor(name).dtype

    def shape(self, name: str) -> Shape:
        """Return a value's shape; `NoKernel` when its rank is not known."""
        shape = self._tensor(name).shape
        if shape is None:
            raise NoKernel(f"the rank of {name!r} is known only at run time")
        return shape

    def static_shape(self, name: str) -> tuple[int, ...]:
        """Return a shape all of numbers, or raise `NoKernel`."""
        shape = self.shape(name)
        if not all(map(is_static, shape)):
            raise NoKernel(
                f"{name!r} has the shape {list(map(str, shape))}, known only at run time"
            )
        return tuple(d for d in shape if isinstance(d, int))

    def constant(self, name: str) -> np.ndarray | None:
        """Return a fixed value, or None when it is computed or absent."""
        return self.graph.constant(name) if name else None

    def symbolic(self, name: str) -> np.ndarray | None:
        """Return a small integer value as an object array of numbers and dims, or None.

        What is known so may go into `numbers`; the name itself need not be read.
        """
        return self._symbolic.get(name) if name else None

    def operator(self, node: Node) -> Operator:
        """Return what is known of a node's operator."""
        return self._registry.find(node)

    def attributes(self, node: Node) -> Mapping[str, Any]:
        """Return a node's attributes over the operator's defaults."""
        return self.operator(node).complete(node)

    def fill(self, name: str) -> int:
        """Return what the border of a picture of bytes holds."""
        return self._fills.get(name, 0)

    def _tensor(self, name: str) -> TensorType:
        kind = self.graph.types.get(name)
        if not isinstance(kind, TensorType):
            raise NoKernel(f"{name!r} is no tensor: {kind}")
        return kind

    # ------------------------------------------------------------------ inputs

    def is_image(self, name: str) -> bool:
        """Whether the value lies as a picture now, so that reading it as one costs nothing."""
        return name in self._image

    def is_wanted(self, name: str) -> bool:
        """Whether others than the nodes of this region read the value, or it is not done yet."""
        return name in self._wanted or name in self._unfinished

    @contextmanager
    def unfinished(self, name: str) -> Iterator[None]:
        """Within, an output of this name is but a step on the way to it, in memory of its own."""
        direct, places = self._direct, self._places
        self._direct = direct - {name}
        self._places = {key: place for key, place in places.items() if key != name}
        self._unfinished.add(name)
        try:
            yield
        finally:
            self._direct, self._places = direct, places
            self._unfinished.discard(name)

    def can_be_image(self, name: str) -> bool:
        """Whether a value has four dims, of which all but the first are numbers."""
        shape = self._tensor(name).shape
        return shape is not None and len(shape) == 4 and all(isinstance(d, int) for d in shape[1:])

    def plain(self, name: str, node: Node) -> Buffer:
        """Return a value as a plain array, converted if need be."""
        if self.is_view(name):
            CONVERTERS_OF_VIEWS["to_plain"](self, self.output(name), self._strided[name], node)
        if name not in self._plain:
            value = self.constant(name)
            if value is not None:
                self._plain[name] = self.weights(
                    f"{name}", lambda: np.ascontiguousarray(value), name
                )
            elif name in self.halves:
                CONVERTERS_OF_HALVES["to_plain"](self, self.output(name), self.halves[name], node)
            else:
                source = self._image[name]
                layout = self._plain_layout(name)
                if source.image.is_planar and source.image.dtype is layout.dtype:
                    self.alias(name, source)
                    return self._plain[name]
                target = self._new(name, layout)
                CONVERTERS["to_plain"](self, target, source, node)
                self._plain[name] = target
        return self._plain[name]

    def has_plain(self, name: str) -> bool:
        """Whether the value lies as a plain array now."""
        return name in self._plain

    def is_view(self, name: str) -> bool:
        """Whether the value lies at strides now, so that a plain array would be a copy."""
        return name in self._strided and name not in self._plain

    def strided(self, name: str, node: Node) -> StridedView:
        """Return a value wherever it lies; it is not copied to be dense."""
        if self.is_view(name):
            return self._strided[name]
        shape = self.shape(name)
        strides = tuple(element_count(shape[k + 1 :]) for k in range(len(shape)))
        return StridedView(self.plain(name, node), shape, strides)

    def image(
        self,
        name: str,
        node: Node,
        *,
        thin: bool = False,
        border: int = 0,
        dtype: DType = DType.FLOAT32,
    ) -> Buffer:
        """Return a value as a picture, converted if need be; `NoKernel` if it cannot be one.

        `thin` asks for just the channels there are, where the picture is yet to be made; `border`
        is the least that the reader needs; `dtype` is what it can read.
        """
        wanted = max(border, self._borders.get(name, 0))
        if dtype in BYTES or self.dtype(name) in BYTES:
            _check_same(name, self.dtype(name), dtype)
        if name not in self._image:
            own = dtype if dtype in BYTES else None
            layout = self.image_layout(name, border=wanted, thin=thin, dtype=own)
            source = self.plain(name, node)
            if layout.is_planar and name not in self._places:
                self.alias_image(name, source, layout)
                return self._image[name]
            target = self._new(name, layout)
            CONVERTERS["to_image"](self, target, source, node)
            self._image[name] = target
        elif self._image[name].image.border < border:
            source = self._image[name]
            layout = self.image_layout(name, border=wanted, dtype=source.image.dtype)
            target = Buffer(name, layout, self.shape(name)[0] * layout.picture_bytes)
            CONVERTERS["widen_border"](self, target, source, node)
            self._image[name] = target
        return self._image[name]

    def image_layout(
        self, name: str, *, border: int = 0, dtype: DType | None = None, thin: bool = False
    ) -> ImageLayout:
        """Return the layout that the picture of a value would have; `NoKernel` if it has none.

        `thin` keeps just the channels there are, for a convolution that reads a few.
        """
        if not self.can_be_image(name):
            raise NoKernel(f"{name!r} is no batch of pictures of one size")
        _, channels, height, width = self.shape(name)
        assert isinstance(channels, int) and isinstance(height, int) and isinstance(width, int)
        held = channels if thin else self.target.whole_vectors(channels)
        layout = ImageLayout(
            height, width, channels, held, held, border, dtype or self._image_dtype(name)
        )
        if layout.picture_bytes > MAX_PICTURE_BYTES:
            raise NoKernel(f"a picture of {name!r} takes {layout.picture_bytes} bytes with border")
        return layout

    def _image_dtype(self, name: str) -> DType:
        dtype = self.dtype(name)
        if dtype is not DType.FLOAT32:
            raise NoKernel(f"{name!r} holds {dtype}; pictures are float32")
        return dtype

    def weights(self, key: str, pack: Callable[[], np.ndarray], name: str = "") -> Buffer:
        """Return a fixed value in a layout of the kernel's own, packed later.

        `key` tells it from others of this graph: the value's name and all that packing depends on.
        """
        if key not in self._weights:
            layout = PlainLayout((), DType.UINT8)
            index = len(self.program.weights)
            self.program.weights.append(Weights(key, pack))
            self._weights[key] = Buffer(name or key, layout, 0, Place.WEIGHTS, index=index)
        return self._weights[key]

    # ------------------------------------------------------------------ outputs

    def output(self, name: str) -> Buffer:
        """Return the new plain array of a node's output."""
        place = Place.OUTPUT if name in self._direct else Place.ARENA
        buffer = self._plain[name] = self._new(name, self._plain_layout(name), place)
        self._image.pop(name, None)  # what was but a step on the way
        return buffer

    def output_image(self, name: str, *, dtype: DType | None = None) -> Buffer:
        """Return the new picture of a node's output, with the border that its readers want."""
        layout = self.image_layout(name, border=self._borders.get(name, 0), dtype=dtype)
        buffer = self._image[name] = self._new(name, layout)
        self._plain.pop(name, None)
        return buffer

    def temporary(self, name: str, size_bytes: Dim) -> Buffer:
        """Return memory for the steps of one node."""
        return Buffer(name, PlainLayout((size_bytes,), DType.UINT8), size_bytes)

    def temporary_plain(self, name: str, shape: Shape, dtype: DType) -> Buffer:
        """Return a plain array that is no value of the graph."""
        return self._new(name, PlainLayout(shape, dtype))

    def temporary_image(self, name: str, batch: Dim, layout: ImageLayout) -> Buffer:
        """Return a picture that is no value of the graph."""
        return Buffer(name, layout, batch * layout.picture_bytes)

    def alias(self, name: str, source: Buffer, offset: int = 0) -> None:
        """Let a name be memory of a plain buffer, `offset` bytes on, seen in the name's shape."""
        layout = self._plain_layout(name)
        self._plain[name] = Buffer(name, layout, layout.size_bytes, source.place, source, offset)

    @property
    def views(self) -> tuple[StridedView, ...]:
        """Values that are views so far."""
        return tuple(self._strided.values())

    def output_view(self, name: str, view: StridedView) -> None:
        """Let a name be a view; it becomes a plain array when a reader wants one."""
        self._strided[name] = view

    def fault(self, node: Node, message: str) -> Buffer:
        """Return an int64, 0 at first, that a kernel sets to tell of an input it cannot take."""
        index = -1 - len(self.program.faults)
        layout = PlainLayout((1,), DType.INT64)
        buffer = Buffer("fault", layout, layout.size_bytes, Place.OUTPUT, index=index)
        self.program.faults.append(Fault(buffer, node, message))
        return buffer

    def require_equal(self, left: Dim, right: Dim, node: Node, message: str) -> None:
        """State that two sizes are equal: checked once the symbols are bound, before a run.

        `NoKernel` when they are numbers that differ.
        """
        if left == right:
            return
        if isinstance(left, int) and isinstance(right, int):
            raise NoKernel(f"{message}: {left} and {right}")
        self.program.requirements.append(Requirement(left, right, node, message))

    def alias_image(self, name: str, source: Buffer, layout: ImageLayout, offset: int = 0) -> None:
        """Let a name be the same memory, from `offset` bytes on, seen as a picture."""
        size = source.size_bytes
        self._image[name] = Buffer(name, layout, size, source.place, source, offset)

    def step(
        self,
        kernel: Kernel,
        writes: Sequence[Buffer],
        reads: Sequence[Buffer],
        *,
        tasks: Dim,
        node: Node,
        numbers: Sequence[Dim] = (),
        in_place: bool = False,
    ) -> None:
        """Add a kernel to the program; operands come in the order writes, reads."""
        self.program.steps.append(
            Step(kernel, tuple(writes), tuple(reads), tuple(numbers), tasks, node, in_place)
        )

    def lower(self, node: Node) -> None:
        """Add the steps of a node, by its rule."""
        if self._lower_symbolic(node):
            return
        rule = RULES.get((node.domain, node.op)) or DEFINED.get(
            type(self.operator(node).definition)
        )
        if rule is None:
            raise NoKernel(f"no rule for {node.domain or 'ai.onnx'}.{node.op}")
        try:
            rule(self, node)
        except NoKernel:
            raise
        except Exception as error:
            # Attributes that no valid model has: the portable definition says what is wrong.
            raise NoKernel(f"{UNREADABLE}: {type(error).__name__}: {error}") from error

    def _lower_symbolic(self, node: Node) -> bool:
        """Write a node's results down when they are known as dims; whether they are."""
        names = [name for name in node.outputs if name]
        known = [(name, self._symbolic.get(name)) for name in names]
        written: list[tuple[str, list[Dim]]] = []
        for name, value in known:
            if value is None or self.dtype(name) is not DType.INT64:
                return False
            numbers = [d if isinstance(d, int | SymDim) else int(d) for d in value.ravel()]
            if not all(map(_cannot_wrap, numbers)):
                return False
            written.append((name, numbers))
        for name, numbers in written:
            kernel = WriteNumbers(len(numbers))
            self.step(kernel, [self.output(name)], (), tasks=1, numbers=numbers, node=node)
        return bool(written)

    def finish(self) -> Program:
        """Bring every output of the region into an array of its own; return the program."""
        last = self._last
        for index, name in enumerate(self._wanted):
            buffer = self._plain.get(name)
            if buffer is None and name in self._strided:
                buffer = self.plain(name, last)
            if buffer is None and name in self._image:
                buffer = self._new(name, self._plain_layout(name), Place.OUTPUT)
                CONVERTERS["to_plain"](self, buffer, self._image[name], last)
            if buffer is None or buffer.place is not Place.OUTPUT or buffer.parent is not None:
                source = self.plain(name, last)
                if _is_all_of_its_own(source):  # an array in another shape: it may lie there itself
                    root, _ = source.root
                    root.place, root.index = Place.OUTPUT, index
                    layout = self._plain_layout(name)
                    given = Buffer(name, layout, layout.size_bytes, Place.OUTPUT, root, 0, index)
                    self.program.outputs.append(given)
                    continue
                buffer = self._new(name, self._plain_layout(name), Place.OUTPUT)
                CONVERTERS["copy"](self, buffer, source, last)
            buffer.index = index
            self.program.outputs.append(buffer)
        return self.program

    def _plain_layout(self, name: str) -> PlainLayout:
        return PlainLayout(self.shape(name), self.dtype(name))

    def _new(self, name: str, layout: Layout, place: Place = Place.ARENA) -> Buffer:
        if isinstance(layout, PlainLayout):
            return Buffer(name, layout, layout.size_bytes, place)
        batch = self.shape(name)[0]
        into = self._places.get(name)
        if into is not None and place is Place.ARENA:
            return self._part_of(name, layout, *into)
        return Buffer(name, layout, batch * layout.picture_bytes, place)

    def _part_of(self, name: str, layout: ImageLayout, whole: str, channel: int) -> Buffer:
        """Return a picture that is some channels of a wider one, which is made if need be."""
        if whole not in self._image:
            self.output_image(whole)
        parent = self._image[whole]
        wide = parent.image
        part = ImageLayout(
            wide.height,
            wide.width,
            layout.channels,
            layout.held,
            wide.pitch,
            wide.border,
            wide.dtype,
        )
        offset = channel * wide.dtype.itemsize
        return Buffer(name, part, parent.size_bytes, Place.ARENA, parent, offset)


# Filled by the file that holds the steps: "to_plain" widens rows of bfloat16 into a plain array.
CONVERTERS_OF_HALVES: dict[str, Callable[[Lowering, Buffer, HalfRows, Node], None]] = {}


def _is_all_of_its_own(buffer: Buffer) -> bool:
    """Whether a buffer is all of an array of the arena."""
    root, offset = buffer.root
    lies_there = root.place is Place.ARENA and isinstance(root.layout, PlainLayout)
    return lies_there and not offset and root.size_bytes == buffer.size_bytes


# Filled by the file that holds the kernel: "to_plain" copies a view into a plain array.
CONVERTERS_OF_VIEWS: dict[str, Callable[[Lowering, Buffer, StridedView, Node], None]] = {}

# Filled by the files that hold the kernels: "to_image", "to_plain", "copy" (plain to plain) and
# "widen_border" (picture to picture).
CONVERTERS: dict[str, Converter] = {}


def _cannot_wrap(dim: Dim) -> bool:
    """Whether a number stays far from 2^63 for all sizes that memory holds: a run's integers wrap,
    dims do not.
    """
    if isinstance(dim, int):
        return abs(dim) < 1 << 62
    return dim.size <= 16 and all(len(atoms) <= 2 and abs(c) < 1 << 20 for atoms, c in dim.terms)


def _check_same(name: str, has: DType, wanted: DType) -> None:
    if has is not wanted:
        raise NoKernel(f"{name!r} holds {has}; the kernel reads pictures of {wanted}")


def elements(shape: Shape) -> Dim:
    """Return how many elements an array of this shape has."""
    return element_count(shape)
