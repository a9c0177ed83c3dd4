"""`/models`: status for everybody, and everything that changes a model, for admins."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl

from server.errors import InvalidInput
from server.handlers.call import Call
from server.handlers.models import status_dict
from server.routes.answers import Answer, Receive, Scope, json_answer
from server.routes.endpoint import Headers, Runtime
from server.routes.guard import guarded
from server.routes.table import Doc, Route
from server.routes.uploads import upload

_ONE = "/models/{model}"
_VERSION = "/models/{model}/versions/{version}"


class ModelRoutes:
    """The answerers of `/models`."""

    def __init__(self, runtime: Runtime) -> None:
        """Keep the runtime."""
        self._runtime = runtime

    async def list(self, scope: Scope, headers: Headers, receive: Receive, call: Call) -> Answer:
        """Return every model's status."""
        found = self._runtime.handlers.models.status()
        return json_answer({"models": [status_dict(status) for status in found]})

    async def show(self, scope: Scope, headers: Headers, receive: Receive, call: Call) -> Answer:
        """Return one model's status."""
        [status] = self._runtime.handlers.models.status(scope["path_params"]["model"])
        return json_answer(status_dict(status))

    async def load(self, scope: Scope, headers: Headers, receive: Receive, call: Call) -> Answer:
        """Load a model or one version."""
        model, body = await self._admin(scope, headers, receive)
        version = _text(body, "version")
        return json_answer(status_dict(await self._runtime.handlers.admin.load(model, version)))

    async def unload(self, scope: Scope, headers: Headers, receive: Receive, call: Call) -> Answer:
        """Unload a model or one version."""
        model, body = await self._admin(scope, headers, receive)
        version = _text(body, "version")
        return json_answer(status_dict(await self._runtime.handlers.admin.unload(model, version)))

    async def promote(self, scope: Scope, headers: Headers, receive: Receive, call: Call) -> Answer:
        """Make a version the default one."""
        model, body = await self._admin(scope, headers, receive)
        version = _required(body, "version")
        return json_answer(status_dict(await self._runtime.handlers.admin.promote(model, version)))

    async def rollback(
        self, scope: Scope, headers: Headers, receive: Receive, call: Call
    ) -> Answer:
        """Go back to the version before."""
        model, _ = await self._admin(scope, headers, receive)
        return json_answer(status_dict(await self._runtime.handlers.admin.rollback(model)))

    async def set_label(
        self, scope: Scope, headers: Headers, receive: Receive, call: Call
    ) -> Answer:
        """Point a label to a version."""
        model, body = await self._admin(scope, headers, receive)
        label = scope["path_params"]["label"]
        version = _required(body, "version")
        admin = self._runtime.handlers.admin
        return json_answer(status_dict(await admin.set_label(model, label, version)))

    async def remove_label(
        self, scope: Scope, headers: Headers, receive: Receive, call: Call
    ) -> Answer:
        """Remove a label."""
        model, _ = await self._admin(scope, headers, receive)
        label = scope["path_params"]["label"]
        admin = self._runtime.handlers.admin
        return json_answer(status_dict(await admin.set_label(model, label, None)))

    async def publish(self, scope: Scope, headers: Headers, receive: Receive, call: Call) -> Answer:
        """Add a version from the body: a `.onnx` file, or a tar or zip of the version's folder."""
        runtime = self._runtime
        guarded(scope, headers, runtime.settings)
        params = scope["path_params"]
        wait = _flag(scope["query_string"], "wait", default=True)
        source = upload(headers, receive, runtime.settings)
        version = params.get("version")
        pushed = await runtime.handlers.admin.publish(params["model"], version, source, wait=wait)
        content = {"model": pushed.model, "version": pushed.version, "loaded": pushed.loaded}
        return json_answer(content, 201 if wait else 202)

    async def delete(self, scope: Scope, headers: Headers, receive: Receive, call: Call) -> Answer:
        """Remove a version and its files."""
        model, _ = await self._admin(scope, headers, receive)
        version = scope["path_params"]["version"]
        await self._runtime.handlers.admin.delete(model, version)
        return json_answer({"model": model, "version": version, "deleted": True})

    async def _admin(
        self, scope: Scope, headers: Headers, receive: Receive
    ) -> tuple[str, dict[str, Any]]:
        guarded(scope, headers, self._runtime.settings)
        runtime = self._runtime
        pool = runtime.handlers.pool
        body = await runtime.bodies.read_object(headers, receive, pool, may_be_empty=True)
        for name, text in parse_qsl(scope["query_string"].decode("latin-1"), max_num_fields=16):
            body.setdefault(name, text)
        return scope["path_params"]["model"], body


def _text(body: dict[str, Any], key: str) -> str | None:
    value = body.get(key)
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if value is not None and (not isinstance(value, str) or not value):
        raise InvalidInput(
            f"`{key}` must be a string", field=key, expected="a string", got=type(value).__name__
        )
    return value


def _required(body: dict[str, Any], key: str) -> str:
    value = _text(body, key)
    if value is None:
        raise InvalidInput(f"`{key}` is missing", field=key, expected="a string", got=None)
    return value


def _flag(query: bytes, name: str, *, default: bool) -> bool:
    given = dict(parse_qsl(query.decode("latin-1"), max_num_fields=16)).get(name)
    if given is None:
        return default
    if given.lower() not in ("0", "1", "false", "true"):
        raise InvalidInput(
            f"`{name}` must be true or false", field=name, expected="true or false", got=given[:40]
        )
    return given.lower() in ("1", "true")


def routes(runtime: Runtime) -> list[Route]:
    """Return every route under /models."""
    models = ModelRoutes(runtime)
    tag = "models"

    def admin(summary: str, body: str | None = None) -> Doc:
        return Doc(summary, tag, body, "ModelStatus", admin=True)

    upload = Doc(
        "Publish a version: the body is a .onnx file, or a tar or zip of the version's folder",
        tag,
        {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
        admin=True,
        query=("wait",),
    )
    return [
        Route("GET", "/models", models.list, Doc("Status of every model", tag)),
        Route("GET", _ONE, models.show, Doc("Status of one model", tag, answer="ModelStatus")),
        Route("POST", f"{_ONE}/load", models.load, admin("Load", "VersionBody")),
        Route("POST", f"{_ONE}/unload", models.unload, admin("Unload", "VersionBody")),
        Route("POST", f"{_ONE}/promote", models.promote, admin("Set the default", "VersionBody")),
        Route("POST", f"{_ONE}/rollback", models.rollback, admin("Go back a version")),
        Route("PUT", f"{_ONE}/labels/{{label}}", models.set_label, admin("Label", "VersionBody")),
        Route("DELETE", f"{_ONE}/labels/{{label}}", models.remove_label, admin("Remove a label")),
        Route("POST", f"{_ONE}/versions", models.publish, upload),
        Route("PUT", _VERSION, models.publish, upload),
        Route("DELETE", _VERSION, models.delete, Doc("Delete a version", tag, admin=True)),
    ]
