"""Cuts the weights out of a model's bytes before they are parsed.

Parsing copies every field, and reading a parsed one copies it again; for weights that is several
times the model. So the protobuf's outline is walked first: large `raw_data` of the main graph's
initializers is taken out, each into an array of its own, and what is left is a small model with the
same meaning. A file whose outline is unusual in any way is left whole: then the parser decides, and
tells what is wrong.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

LEAST_BYTES: Final = 64 << 10  # less is not worth taking out
# Field numbers of ModelProto, GraphProto and TensorProto.
GRAPH, INITIALIZER, RAW_DATA = 7, 5, 9
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # wire types; groups are not used by ONNX
WINDOW_BYTES: Final = 256 << 10
MAX_FIELDS: Final = 1_000_000  # a second of walking; the parser is faster, if not thriftier


class Unusual(ValueError):
    """The outline is none that this file understands."""


@dataclass(frozen=True)
class Outline:
    """A model without its large weights.

    Attributes:
        rest: The model's bytes, with empty `raw_data` where something was taken out.
        raw: What was taken out: the bytes per number of the main graph's initializer.
    """

    rest: bytes
    raw: Mapping[int, np.ndarray]


class Source(ABC):
    """The bytes of a model."""

    size: int

    @abstractmethod
    def read(self, begin: int, end: int) -> bytes:
        """Return some bytes; fewer only where the source has become shorter."""

    @abstractmethod
    def array(self, begin: int, end: int) -> np.ndarray:
        """Return bytes as an array of their own, aligned for any element type."""


class FileSource(Source):
    """An open file, which may change meanwhile: what is missing then is `Unusual`."""

    def __init__(self, descriptor: int, size: int) -> None:
        self._descriptor, self.size = descriptor, size

    def read(self, begin: int, end: int) -> bytes:
        """Return some bytes of the file."""
        return os.pread(self._descriptor, end - begin, begin)

    def array(self, begin: int, end: int) -> np.ndarray:
        """Read bytes into an array, with one copy."""
        array = np.empty(end - begin, np.uint8)
        view = array.data
        while begin < end:
            count = os.preadv(self._descriptor, [view[-(end - begin) :]], begin)
            if count == 0:
                raise Unusual("the file ended while it was read")
            begin += count
        array.flags.writeable = False
        return array


class MemorySource(Source):
    """A model in memory."""

    def __init__(self, data: bytes) -> None:
        self._data, self.size = memoryview(data), len(data)

    def read(self, begin: int, end: int) -> bytes:
        """Return some of the bytes."""
        return bytes(self._data[begin:end])

    def array(self, begin: int, end: int) -> np.ndarray:
        """Return a copy: its place among the bytes is aligned for nothing."""
        array = np.frombuffer(self._data[begin:end], np.uint8).copy()
        array.flags.writeable = False
        return array


def outline(source: Source) -> Outline | None:
    """Return a model without its large weights; None where it has none, or is unusual."""
    try:
        return _cut(source) if source.size > LEAST_BYTES else None
    except Unusual:
        return None


def _cut(source: Source) -> Outline | None:
    reader = _Reader(source)
    graphs = [f for f in reader.fields(0, source.size) if f.number == GRAPH]
    if len(graphs) != 1 or graphs[0].kind != BYTES:
        return None  # several would be merged into one
    graph = graphs[0]
    pieces: list[bytes] = []
    raw: dict[int, np.ndarray] = {}
    position, number = graph.begin, 0
    for field in reader.fields(graph.begin, graph.end):
        if field.number != INITIALIZER:
            continue
        data = _raw_data(reader, field)
        if data is not None:
            raw[number] = source.array(data.begin, data.end)
            before = reader.bytes(field.begin, data.at)
            after = reader.bytes(data.end, field.end)
            tensor = before + _tag(RAW_DATA) + _varint(0) + after
            pieces += reader.bytes(position, field.at), _tag(INITIALIZER), _varint(len(tensor))
            pieces.append(tensor)
            position = field.end
        number += 1
    if not raw:
        return None
    pieces.append(reader.bytes(position, graph.end))
    inside = b"".join(pieces)
    head = reader.bytes(0, graph.at) + _tag(GRAPH) + _varint(len(inside))
    return Outline(head + inside + reader.bytes(graph.end, source.size), raw)


def _raw_data(reader: _Reader, tensor: _Field) -> _Field | None:
    """Return the raw data of an initializer, if it is worth taking out."""
    if tensor.kind != BYTES or tensor.end - tensor.begin < LEAST_BYTES:
        return None
    found = [f for f in reader.fields(tensor.begin, tensor.end) if f.number == RAW_DATA]
    if len(found) != 1 or found[0].kind != BYTES or found[0].end - found[0].begin < LEAST_BYTES:
        return None
    return found[0]


@dataclass(frozen=True, slots=True)
class _Field:
    """A field: where its tag is, and where its content begins and ends."""

    number: int
    kind: int
    at: int
    begin: int
    end: int


class _Reader:
    """Walks over fields; reads windows, so that content which is skipped is not read."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._window, self._start = b"", 0
        self._left = MAX_FIELDS

    def fields(self, begin: int, end: int) -> Iterator[_Field]:
        """Yield the fields between two places."""
        while begin < end:
            self._left -= 1
            tag, content = self._number(begin, end)
            kind = tag & 7
            if kind == BYTES:
                length, content = self._number(content, end)
                stop = content + length
            elif kind == VARINT:
                _, stop = self._number(content, end)
            elif kind in (FIXED32, FIXED64):
                stop = content + (4 if kind == FIXED32 else 8)
            else:
                raise Unusual(f"wire type {kind}")
            if stop > end or tag >> 3 == 0 or self._left < 0:
                raise Unusual("a field beyond the end of what holds it")
            yield _Field(tag >> 3, kind, begin, content, stop)
            begin = stop

    def bytes(self, begin: int, end: int) -> bytes:
        """Return all bytes between two places."""
        found = self._source.read(begin, end)
        if len(found) != end - begin:
            raise Unusual("the file ended while it was read")
        return found

    def _number(self, at: int, end: int) -> tuple[int, int]:
        """Return a varint, and where it ends."""
        value = shift = 0
        while at < end and shift < 64:
            if not 0 <= at - self._start < len(self._window):
                self._window, self._start = self._source.read(at, at + WINDOW_BYTES), at
                if not self._window:
                    break
            byte = self._window[at - self._start]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value, at
            shift += 7
        raise Unusual("a number without an end")


def _tag(number: int) -> bytes:
    return _varint(number << 3 | BYTES)


def _varint(value: int) -> bytes:
    groups = []
    while value > 0x7F:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*groups, value])
