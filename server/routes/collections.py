"""`/collections`: made, filled, looked at, saved and removed."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from server.errors import InvalidInput
from server.handlers.call import Call
from server.handlers.collection_map import MapRequest
from server.handlers.collections import NewCollection
from server.index.contract import StoredItem
from server.index.filters import Filter
from server.routes.answers import Answer, Header, Receive, Scope, json_answer, to_json
from server.routes.bodies import parse_json
from server.routes.collections_add import AddRoute, require_writer
from server.routes.connected import until_gone
from server.routes.endpoint import Headers, Runtime
from server.routes.guard import guarded
from server.routes.items_body import ITEM_KEYS
from server.routes.request_options import literal, read_query, wrong_kind
from server.routes.similar_body import filter_of, read_wants
from server.routes.table import Doc, Route
from server.routes.uploads import path_of, spooled, upload
from server.similarity.thumbnails import media_type

_ONE = "/collections/{collection}"
_ITEMS = f"{_ONE}/items"
_ITEM = f"{_ITEMS}/{{id:path}}"
_NEW_KEYS = ("name", "model", "metric", "dim")
_NO_GUESSING: Header = (b"x-content-type-options", b"nosniff")
_FILE = {"schema": {"type": "string", "format": "binary"}}


class CollectionRoutes:
    """The answerers of `/collections`."""

    def __init__(self, runtime: Runtime) -> None:
        """Keep the runtime."""
        self._runtime = runtime

    # Collections

    async def create(self, scope: Scope, headers: Headers, receive: Receive, call: Call) -> Answer:
        """Make a collection."""
        guarded(scope, headers, self._runtime.settings)
        body = await self._object(headers, receive)
        made = await self._runtime.handlers.collections.create(_new_collection(body))
        return json_answer(made, 201)

    async def list(self, scope: Scope, headers: Headers, receive: Receive, call: Call) -> Answer:
        """Return the names of all collections."""
        return json_answer({"collections": await self._runtime.handlers.collections.names()})

    async def show(self, scope: Scope, headers: Headers, receive: Receive, call: Call) -> Answer:
        """Describe one."""
        return json_answer(await self._runtime.handlers.collections.show(_name(scope)))

    async def drop(self, scope: Scope, headers: Headers, receive: Receive, call: Call) -> Answer:
        """Remove one."""
        guarded(scope, headers, self._runtime.settings)
        await self._runtime.handlers.collections.drop(_name(scope))
        return json_answer({"name": _name(scope), "deleted": True})

    # Items

    async def page(self, scope: Scope, headers: Headers, receive: Receive, call: Call) -> Answer:
        """Return items: a page of them, or those that are named."""
        collections = self._runtime.handlers.collections
        given = read_query(scope["query_string"])
        ids = [text for name, text in given if name == "id"]
        options = _known(given, ("id", "after", "limit", "filter"))
        if ids:
            found = await collections.items(_name(scope), ids)
            return json_answer({"items": [_item(item) for item in found if item is not None]})
        limit = _number(options, "limit", 100)
        after = options.get("after")
        items, following = await collections.page(_name(scope), after, limit, _filter(options))
        return json_answer({"items": [_item(item) for item in items], "next": following})

    async def item(self, scope: Scope, headers: Headers, receive: Receive, call: Call) -> Answer:
        """Return one item."""
        found = await self._runtime.handlers.collections.item(_name(scope), _id(scope))
        return json_answer(_item(found))

    async def picture(self, scope: Scope, headers: Headers, receive: Receive, call: Call) -> Answer:
        """Return an item's picture."""
        found = await self._runtime.handlers.collections.picture(_name(scope), _id(scope))
        return _picture(found)

    async def thumbnail(
        self, scope: Scope, headers: Headers, receive: Receive, call: Call
    ) -> Answer:
        """Return an item's picture in small."""
        collections = self._runtime.handlers.collections
        return _picture(await collections.picture(_name(scope), _id(scope), small=True))

    async def update(self, scope: Scope, headers: Headers, receive: Receive, call: Call) -> Answer:
        """Replace an item's metadata."""
        require_writer(scope, headers, self._runtime)
        body = await self._object(headers, receive)
        if set(body) != {"metadata"}:
            raise wrong_kind("body", '{"metadata": {...}}', list(body))
        collections = self._runtime.handlers.collections
        return json_answer(
            _item(await collections.update(_name(scope), _id(scope), body["metadata"]))
        )

    async def remove(self, scope: Scope, headers: Headers, receive: Receive, call: Call) -> Answer:
        """Remove one item."""
        require_writer(scope, headers, self._runtime)
        collections = self._runtime.handlers.collections
        if not await collections.delete(_name(scope), [_id(scope)]):
            await collections.item(_name(scope), _id(scope))  # says that it is not there
        return json_answer({"collection": _name(scope), "id": _id(scope), "deleted": 1})

    async def remove_many(
        self, scope: Scope, headers: Headers, receive: Receive, call: Call
    ) -> Answer:
        """Remove the items that are named, or that a filter finds."""
        require_writer(scope, headers, self._runtime)
        body = await self._object(headers, receive)
        collections = self._runtime.handlers.collections
        if set(body) == {"ids"} and isinstance(body["ids"], list):
            count = await collections.delete(_name(scope), body["ids"])
        elif set(body) == {"filter"}:
            wanted = filter_of(body["filter"])
            if wanted is None:
                raise InvalidInput(
                    "an empty filter would delete every item; delete the collection instead",
                    field="filter",
                    expected="a filter that says something",
                    got=body["filter"],
                )
            count = await collections.delete_matching(_name(scope), wanted)
        else:
            raise wrong_kind("body", '{"ids": [...]} or {"filter": {...}}', body)
        return json_answer({"collection": _name(scope), "deleted": count})

    # Whole collections

    async def map(self, scope: Scope, headers: Headers, receive: Receive, call: Call) -> Answer:
        """Return the map, as points or as a picture."""
        request, form = _map_request(scope)
        maps = self._runtime.handlers.maps
        if form == "png":
            picture = await maps.picture(request, call)
            return Answer(200, picture, [(b"content-type", b"image/png"), _NO_GUESSING])
        found = await maps.points(request, call)
        content = {
            "collection": request.collection,
            "method": request.method,
            "space": found.space,
            "total": found.total,
            "items": found.items(),
        }
        if found.extras.no_thumbnail:
            content["thumbnails_left_out"] = len(found.extras.no_thumbnail)
        return Answer(200, await self._runtime.handlers.pool.run(to_json, content))

    async def snapshot(
        self, scope: Scope, headers: Headers, receive: Receive, call: Call
    ) -> Answer:
        """Return a collection as an archive."""
        guarded(scope, headers, self._runtime.settings)
        name = _name(scope)
        pieces = self._runtime.handlers.collections.snapshot(name)
        first = await anext(pieces, b"")
        named = f'attachment; filename="{name}.tar"'.encode("latin-1", "replace")
        kinds = [(b"content-type", b"application/x-tar"), (b"content-disposition", named)]
        return Answer(200, first, kinds, rest=until_gone(pieces, call))

    async def restore(self, scope: Scope, headers: Headers, receive: Receive, call: Call) -> Answer:
        """Make a collection of an archive."""
        runtime = self._runtime
        guarded(scope, headers, runtime.settings)
        collections = runtime.handlers.collections
        body = upload(headers, receive, runtime.settings)
        async with spooled(body, collections.spool) as file:
            return json_answer(await collections.restore(_name(scope), path_of(file)), 201)

    async def _object(self, headers: Headers, receive: Receive) -> dict[str, Any]:
        runtime = self._runtime
        return await runtime.bodies.read_object(headers, receive, runtime.handlers.pool)


def _name(scope: Scope) -> str:
    name: str = scope["path_params"]["collection"]
    return name


def _id(scope: Scope) -> str:
    id: str = scope["path_params"]["id"]
    return id


def _new_collection(body: dict[str, Any]) -> NewCollection:
    unknown = [key for key in body if key not in _NEW_KEYS]
    if unknown or not isinstance(body.get("name"), str):
        raise wrong_kind(
            "name" if not unknown else unknown[0][:80],
            f"a collection with the keys {', '.join(_NEW_KEYS)}, of which `name` is needed",
            unknown[0] if unknown else body.get("name"),
        )
    model, metric, dim = body.get("model"), body.get("metric", "cosine"), body.get("dim")
    if model is not None and not (isinstance(model, str) and model):
        raise wrong_kind("model", "a model's name, or null for ready-made vectors", model)
    if not isinstance(metric, str):
        raise wrong_kind("metric", "cosine, dot or l2", metric)
    if dim is not None and type(dim) is not int:
        raise wrong_kind("dim", "a whole number", dim)
    return NewCollection(body["name"], model, metric, dim, "model" in body and model is None)


def _item(item: StoredItem) -> dict[str, Any]:
    return asdict(item)


def _picture(data: bytes) -> Answer:
    return Answer(200, data, [(b"content-type", media_type(data).encode()), _NO_GUESSING])


def _known(given: list[tuple[str, str]], names: tuple[str, ...]) -> dict[str, str]:
    options = dict(given)
    for name in options:
        if name not in names:
            raise InvalidInput(
                f"unknown option {name[:80]!r}; known: {', '.join(names)}",
                field=name[:80],
                expected=list(names),
                got=name[:80],
            )
    return options


def _number(options: dict[str, str], name: str, default: int) -> int:
    value = literal(options[name]) if name in options else default
    if type(value) is not int or abs(value) >= 2**31:
        raise wrong_kind(name, "a whole number", options[name])
    return value


def _filter(options: dict[str, str]) -> Filter | None:
    if "filter" not in options:
        return None
    given = options["filter"].encode("utf-8", "replace")
    return filter_of(parse_json(given, "`filter`"))


def _map_request(scope: Scope) -> tuple[MapRequest, str]:
    names = ("format", "method", "limit", "seed", "size", "return")
    options = _known(read_query(scope["query_string"]), names)
    form = options.get("format", "json")
    if form not in ("json", "png"):
        raise wrong_kind("format", "json or png", form)
    usual = MapRequest(_name(scope))
    wanted = [part for part in options.get("return", "metadata").split(",") if part]
    request = MapRequest(
        usual.collection,
        options.get("method", usual.method),
        _number(options, "limit", usual.limit),
        _number(options, "seed", usual.seed) % 2**31,
        _number(options, "size", usual.size),
        read_wants(wanted),
    )
    return request, form


_ADD_ABOUT = f"""Items in: JSON (`{{"items": [...]}}` or one item, keys {", ".join(ITEM_KEYS)}), one
raw picture (`id`, `metadata` in the query), a form with files, a zip or tar file (paths become ids,
folders `metadata.folder`), or one JSON item a line (`application/x-ndjson`).

An item with an id that is there replaces it. With `Accept: application/x-ndjson` or
`text/event-stream` the answer is a stream of `progress`, then `done` or `error`: what is told as
done is durable."""
_ADD_BODY: dict[str, Any] = {
    "application/json": {"schema": {"$ref": "#/components/schemas/ItemsBody"}},
    "application/x-ndjson": {"schema": {"$ref": "#/components/schemas/CollectionItem"}},
    "multipart/form-data": {"schema": {"type": "object", "additionalProperties": True}},
    "image/*": _FILE,
    "application/zip": _FILE,
    "application/x-tar": _FILE,
}
_RESTORE_BODY: dict[str, Any] = {"application/x-tar": _FILE}
_MAP_QUERY = ("format", "method", "limit", "seed", "size", "return")


def routes(runtime: Runtime) -> list[Route]:
    """Return every route under /collections but the search."""
    of, tag = CollectionRoutes(runtime), "similarity"

    def doc(summary: str, *, admin: bool = False, **about: Any) -> Doc:
        return Doc(summary, tag, admin=admin, **about)

    added = doc(
        "Add or replace items",
        body=_ADD_BODY,
        answer="ItemsAnswer",
        query=("id", "metadata", "priority"),
        admin=True,
        description=_ADD_ABOUT,
    )
    page = doc("Items in the order of their ids", query=("after", "limit", "filter", "id"))
    removed = doc("Delete items by `ids` or by a filter", body="DeleteItemsBody", admin=True)
    created = doc("Make a collection", body="CollectionBody", answer="CollectionStatus", admin=True)
    return [
        Route("GET", "/collections", of.list, doc("Names of all collections")),
        Route("POST", "/collections", of.create, created),
        Route("GET", _ONE, of.show, doc("One collection", answer="CollectionStatus")),
        Route("DELETE", _ONE, of.drop, doc("Delete a collection", admin=True)),
        Route("POST", _ITEMS, AddRoute(runtime), added),
        Route("GET", _ITEMS, of.page, page),
        Route("DELETE", _ITEMS, of.remove_many, removed),
        Route("GET", f"{_ITEM}/picture", of.picture, doc("An item's picture")),
        Route("GET", f"{_ITEM}/thumbnail", of.thumbnail, doc("An item's picture in small")),
        Route("GET", _ITEM, of.item, doc("One item")),
        Route("PATCH", _ITEM, of.update, doc("Replace metadata", body="MetadataBody", admin=True)),
        Route("DELETE", _ITEM, of.remove, doc("Delete one item", admin=True)),
        Route("GET", f"{_ONE}/map", of.map, doc("A map in two dimensions", query=_MAP_QUERY)),
        Route("GET", f"{_ONE}/snapshot", of.snapshot, doc("All of it as an archive", admin=True)),
        Route(
            "POST",
            f"{_ONE}/restore",
            of.restore,
            doc("Make it of an archive", body=_RESTORE_BODY, admin=True),
        ),
    ]
