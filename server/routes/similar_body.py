"""What may be sent to `/similar`: JSON, a form with pictures, or one raw picture."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from server.errors import InvalidInput, ServerError, UnsupportedMedia
from server.handlers.call import Call
from server.handlers.similar import PictureQuery, SimilarQuery, SimilarRequest
from server.index.checks import check_id
from server.index.contract import Query
from server.index.filter_reading import read_filter
from server.index.filters import Filter
from server.routes.bodies import parse_json, parse_object
from server.routes.endpoint import read_priority, timeout_seconds
from server.routes.multipart import parse_multipart
from server.routes.request_options import address_of, literal, read_base64, read_query, wrong_kind
from server.similarity.search import ItemId, Wanted
from server.similarity.telling import WANTS, Want

OPTIONS = (
    *("collection", "version", "label", "timeout_s", "priority"),
    *("k", "offset", "min_score", "filter", "exact", "include_self", "return"),
)
QUERY_KINDS = ("image", "id", "vector")
_TEXTS = ("collection", "version", "label", "filter", "return", "id")
_FORM_TYPES = (b"application/x-www-form-urlencoded",)  # what `curl -d` says of any body


def read_similar(body: bytes, content_type: bytes, query: bytes, call: Call) -> SimilarRequest:
    """Read a search; a broken query becomes its error, in its place.

    Raises:
        MalformedRequest: the body is not what its content type says.
        InvalidInput: a key that is not known, or has a wrong value.
        UnsupportedMedia: a content type that this door does not read.
    """
    fields: dict[str, Any] = {}
    for name, text in read_query(query):
        _take(fields, name, text)
    queries: list[SimilarQuery] = []
    kind = content_type.partition(b";")[0].strip().lower()
    if not kind or kind.endswith(b"json") or kind in _FORM_TYPES:
        value = parse_object(body) if body or "id" not in fields else {}
        queries = _from_json(value, fields)
    elif kind == b"multipart/form-data":
        for part in parse_multipart(body, content_type):
            if part.filename is None and part.name != "file":
                _take(fields, part.name, part.data.decode("utf-8", "replace"))
            else:
                queries.append(picture_query(part.data, f"file[{len(queries)}]"))
    elif kind.startswith(b"image/") or kind == b"application/octet-stream":
        queries = [picture_query(body, "image")]
    else:
        raise UnsupportedMedia(
            f"Content-Type {kind.decode('latin-1')[:60]!r} is not read here; send application/json,"
            " multipart/form-data or image/*"
        )
    id = fields.pop("id", None)
    if id is not None and queries:
        raise InvalidInput(
            "an `id` in the query beside what the body looks for; send one of the two",
            field="id",
            expected="one of image, id, vector, queries",
            got="several",
        )
    if id is not None:
        queries = [_by_id(id, "id")]
    return _request(queries, fields, call)


def _take(fields: dict[str, Any], name: str, text: str) -> None:
    """Keep an option that came as text."""
    if name == "filter":
        fields[name] = parse_json(text.encode("utf-8", "replace"), "`filter`")
    elif name == "return":
        fields[name] = [part.strip() for part in text.split(",") if part.strip()]
    else:
        fields[name] = text if name in _TEXTS else literal(text)


def picture_query(data: bytes, where: str) -> PictureQuery | ServerError:
    """Return the query by a picture."""
    if data:
        return PictureQuery(data, where)
    return InvalidInput("the picture is empty", field=where, expected="an image", got="0 bytes")


def _from_json(body: dict[str, Any], fields: dict[str, Any]) -> list[SimilarQuery]:
    given = [kind for kind in (*QUERY_KINDS, "queries") if body.get(kind) is not None]
    fields |= {name: value for name, value in body.items() if name not in (*given, "queries")}
    for kind in QUERY_KINDS:
        if kind in fields and fields[kind] is None:
            del fields[kind]
    if not given:
        return []
    if len(given) > 1:
        raise InvalidInput(
            f"send one of image, id, vector or queries, got {' and '.join(given)}",
            field=given[1],
            expected="one of image, id, vector, queries",
            got=given,
        )
    if given != ["queries"]:
        return [_json_query({given[0]: body[given[0]]}, "")]
    if not isinstance(body["queries"], list):
        raise wrong_kind("queries", "a list of queries", body["queries"])
    return [_json_query(each, f"queries[{n}].") for n, each in enumerate(body["queries"])]


def _json_query(value: Any, where: str) -> SimilarQuery:
    try:
        if not isinstance(value, dict) or len(value) != 1:
            raise wrong_kind(where or "query", 'one of {"image"}, {"id"}, {"vector"}', value)
        [(kind, content)] = value.items()
        if kind == "image":
            return picture_query(read_image(content, f"{where}image"), f"{where}image")
        if kind == "id":
            return _by_id(content, f"{where}id")
        if kind == "vector":
            return read_vector(content, f"{where}vector")
        raise wrong_kind(where or "query", 'one of {"image"}, {"id"}, {"vector"}', value)
    except ServerError as error:
        return error


def _by_id(value: Any, where: str) -> ItemId | ServerError:
    try:
        return ItemId(check_id(value))
    except InvalidInput as error:
        return InvalidInput(error.message, **{**error.extra, "field": where})


def read_image(value: Any, where: str) -> bytes:
    """Return the bytes of `{"b64": "..."}`."""
    if not isinstance(value, dict) or set(value) != {"b64"}:
        raise wrong_kind(where, '{"b64": "..."}', value)
    return read_base64(value["b64"], f"{where}.b64")


def read_vector(value: Any, where: str) -> NDArray[np.float32]:
    """Return the vector of a list of numbers, or of `{"b64": little-endian float32}`.

    Raises:
        InvalidInput: it is neither, or not finite.
    """
    if isinstance(value, dict) and set(value) == {"b64"}:
        data = read_base64(value["b64"], f"{where}.b64")
        if not data or len(data) % 4:
            raise wrong_kind(f"{where}.b64", "float32 numbers, 4 bytes each", f"{len(data)} bytes")
        vector = np.frombuffer(data, "<f4").astype(np.float32)
    else:
        vector = _from_list(value, where)
    if not np.isfinite(vector).all():
        raise wrong_kind(where, "finite float32 numbers", value)
    return vector


def _from_list(value: Any, where: str) -> NDArray[np.float32]:
    if not isinstance(value, list) or not value:
        raise wrong_kind(where, "a list of numbers", value)
    # `type`, not isinstance: true and false are no numbers here.
    if not {type(each) for each in value} <= {int, float}:
        raise wrong_kind(where, "a list of numbers", value)
    try:
        with np.errstate(over="ignore"):
            return np.array(value, np.float64).astype(np.float32)
    except (OverflowError, ValueError):
        raise wrong_kind(where, "numbers that float32 can hold", value) from None


def _request(queries: list[SimilarQuery], fields: dict[str, Any], call: Call) -> SimilarRequest:
    for name in fields:
        if name not in OPTIONS:
            known = (*QUERY_KINDS, "queries", *OPTIONS)
            raise InvalidInput(
                f"unknown key {name[:80]!r}; known: {', '.join(known)}",
                field=name[:80],
                expected=list(known),
                got=name[:80],
            )
    fields = {name: value for name, value in fields.items() if value is not None}
    if not queries:
        raise InvalidInput(
            "nothing to look for: send an image, an id, a vector, or a list of queries",
            field="image",
            expected="image, id, vector or queries",
            got=None,
        )
    if "timeout_s" in fields:
        call.timeout_s = timeout_seconds(fields["timeout_s"], "timeout_s")
    if "priority" in fields:
        call.priority = read_priority(fields["priority"])
    _, version, label = address_of(fields)
    collection = fields.get("collection")
    if collection is not None and not isinstance(collection, str):
        raise wrong_kind("collection", "a collection's name", collection)
    return SimilarRequest(queries, collection, version, label, _wanted(fields))


def _wanted(fields: Mapping[str, Any]) -> Wanted:
    query = Query(
        k=_whole(fields.get("k", 10), "k", 1),
        filter=filter_of(fields.get("filter")),
        min_score=_score(fields.get("min_score")),
        offset=_whole(fields.get("offset", 0), "offset", 0),
        exact=boolean(fields.get("exact", False), "exact"),
    )
    keep_self = boolean(fields.get("include_self", False), "include_self")
    return Wanted(query, read_wants(fields.get("return", ["metadata"])), keep_self)


def read_wants(value: Any) -> frozenset[Want]:
    """Return what is to be told of each item."""
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list) or not set(map(str, value)) <= set(WANTS):
        raise wrong_kind("return", f"a list out of {', '.join(WANTS)}", value)
    return frozenset(cast("Iterable[Want]", value))


def filter_of(value: Any) -> Filter | None:
    """Return the filter of a request, if it has one."""
    return None if value is None or value == {} else read_filter(value)


def _whole(value: Any, name: str, least: int) -> int:
    if type(value) is not int or not least <= value < 2**31:
        raise wrong_kind(name, f"a whole number from {least}", value)
    return value


def _score(value: Any) -> float | None:
    if value is None:
        return None
    if type(value) not in (int, float) or not math.isfinite(_as_float(value)):
        raise wrong_kind("min_score", "a finite number", value)
    return float(value)


def _as_float(value: int | float) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf


def boolean(value: Any, name: str) -> bool:
    """Return an option that is true or false."""
    if isinstance(value, bool):
        return value
    if value in (0, 1):
        return bool(value)
    raise wrong_kind(name, "true or false", value)
