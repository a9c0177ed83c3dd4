"""The answer of the Open Inference Protocol v2: JSON, with binary tensors behind it if asked."""

from __future__ import annotations

import struct
import zlib
from typing import Any

import numpy as np

from server.errors import InvalidInput
from server.handlers.infer import InferReply
from server.routes.answers import JSON, Answer, to_json
from server.routes.v2_request import NAMES, V2Request, WantedOutput
from server.tensors import type_name

MIN_COMPRESSED_BYTES = 1024
BINARY = (b"content-type", b"application/octet-stream")
Array = np.ndarray[Any, Any]


def encode_reply(reply: InferReply, request: V2Request) -> Answer:
    """Write the outputs in the order and form that the request asked for."""
    wanted = request.outputs
    if wanted is None:
        wanted = [WantedOutput(name, request.binary) for name in reply.outputs]
    tensors: list[dict[str, Any]] = []
    blobs: list[bytes] = []
    for output in wanted:
        array = reply.outputs[output.name]
        if output.classes:
            array = classify(array, output, reply.labels, output.name in reply.batched)
        tensor: dict[str, Any] = {
            "name": output.name,
            "datatype": datatype_of(type_name(array.dtype)),
            "shape": array.shape,
        }
        if output.binary:
            blob = tensor_bytes(array)
            tensor["parameters"] = {"binary_data_size": len(blob)}
            blobs.append(blob)
        else:
            tensor["data"] = np.ascontiguousarray(array).reshape(-1)
        tensors.append(tensor)
    content: dict[str, Any] = {
        "model_name": reply.model,
        "model_version": reply.version,
        "outputs": tensors,
    }
    if request.id is not None:
        content["id"] = request.id
    head = to_json(content)
    if not blobs:
        return Answer(200, head, [JSON])
    length = (b"inference-header-content-length", b"%d" % len(head))
    return Answer(200, b"".join([head, *blobs]), [BINARY, length])


def datatype_of(dtype: str) -> str:
    """Return the protocol's name of a numpy type name."""
    return NAMES.get(dtype, "BYTES" if dtype.startswith(("str", "bytes")) else dtype.upper())


def tensor_bytes(array: Array) -> bytes:
    """Return a tensor as the protocol lays it out: little-endian, row-major."""
    if array.dtype.kind in "OSU":
        return b"".join(struct.pack("<I", len(item)) + item for item in map(_raw, array.flat))
    if array.dtype.byteorder == ">":
        array = array.astype(array.dtype.newbyteorder("<"))
    return array.tobytes()


def _raw(item: Any) -> bytes:
    return item if isinstance(item, bytes) else str(item).encode("utf-8", "surrogateescape")


def classify(
    array: Array, output: WantedOutput, labels: tuple[str, ...] | None, batched: bool
) -> Array:
    """Return the `classes` best of each row as `value:index[:label]` (Triton's extension)."""
    if array.dtype.kind not in "fiu":
        raise InvalidInput(
            f"output {output.name!r} is {datatype_of(array.dtype.name)}; "
            "the classification extension needs numbers",
            field="classification",
        )
    rows = array.reshape(array.shape[0], -1) if batched and array.ndim else array.reshape(1, -1)
    count = min(output.classes, rows.shape[1])
    named = labels if labels is not None and len(labels) == rows.shape[1] else None
    best = np.argsort(-rows.astype(np.float64), axis=1, kind="stable")[:, :count]  # (rows, count)
    texts = [
        f"{row[index]:f}:{index}" + (f":{named[index]}" if named else "")
        for row, indices in zip(rows, best, strict=True)
        for index in indices
    ]
    shape = (len(rows), count) if batched else (count,)
    return np.array(texts, dtype=object).reshape(shape)


def chosen_encoding(accepted: bytes, body_bytes: int) -> str | None:
    """Return how to compress a body of this size, given the client's `Accept-Encoding`."""
    if not accepted or body_bytes < MIN_COMPRESSED_BYTES:
        return None
    names = {
        name.strip()
        for name, _, weight in (
            part.partition(";") for part in accepted.decode("latin-1").split(",")
        )
        if weight.replace(" ", "") not in ("q=0", "q=0.0", "q=0.00", "q=0.000")
    }
    return next((name for name in ("gzip", "deflate") if name in names), None)


def compress(body: bytes, encoding: str) -> bytes:
    """Compress fast rather than small; "deflate" on the web is zlib's format."""
    packer = zlib.compressobj(1, zlib.DEFLATED, 31 if encoding == "gzip" else 15)
    return packer.compress(body) + packer.flush()
