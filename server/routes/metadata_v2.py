"""`/v2`, `/v2/models/...`, `/v2/repository/...`: everything of v2 but infer, in Triton's forms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from server import __version__
from server.errors import InvalidInput
from server.handlers.call import Call
from server.repository.status import State
from server.routes.answers import Answer, Receive, Scope, json_answer
from server.routes.endpoint import Headers, Runtime
from server.routes.guard import guarded
from server.routes.inference_v2 import InferRoute
from server.routes.table import Doc, Route
from server.routes.v2_reply import datatype_of
from server.tensors import TensorInfo

EXTENSIONS = (
    *("binary_tensor_data", "classification", "model_configuration", "model_repository"),
    *("model_repository(unload_dependents)", "parameters", "schedule_policy", "statistics"),
)
# Triton's words for the states of a version.
_STATES = {
    State.LOADING: "LOADING",
    State.READY: "READY",
    State.DRAINING: "UNLOADING",
    State.UNLOADED: "UNAVAILABLE",
    State.FAILED: "UNAVAILABLE",
}
_MODEL = "/v2/models/{model}"
_VERSION = "/v2/models/{model}/versions/{version}"


class MetadataV2:
    """The answerers of v2's questions and of its repository extension."""

    def __init__(self, runtime: Runtime) -> None:
        """Keep the runtime."""
        self._runtime = runtime

    async def server(self, scope: Scope, headers: Headers, receive: Receive, call: Call) -> Answer:
        """Describe the server."""
        return json_answer(
            {"name": "millrace", "version": __version__, "extensions": list(EXTENSIONS)}
        )

    async def model(self, scope: Scope, headers: Headers, receive: Receive, call: Call) -> Answer:
        """Describe a model's inputs and outputs."""
        content = self._runtime.handlers.models.metadata(*_address(scope))
        content["inputs"] = describe_tensors(content["inputs"])
        content["outputs"] = describe_tensors(content["outputs"])
        return json_answer(content)

    async def ready(self, scope: Scope, headers: Headers, receive: Receive, call: Call) -> Answer:
        """Say whether a model can answer."""
        model, version = _address(scope)
        ready = self._runtime.handlers.models.ready(model, version)
        return json_answer({"name": model, "ready": ready}, 200 if ready else 503)

    async def config(self, scope: Scope, headers: Headers, receive: Receive, call: Call) -> Answer:
        """Return a model's configuration as Triton writes it."""
        content = self._runtime.handlers.models.configuration(*_address(scope))
        for key in ("input", "output"):
            content[key] = [_config_tensor(spec, skip) for spec, skip in content[key]]
        return json_answer(content)

    async def stats(self, scope: Scope, headers: Headers, receive: Receive, call: Call) -> Answer:
        """Return what each version has done so far."""
        params = scope["path_params"]
        model, version = params.get("model"), params.get("version")
        found = self._runtime.handlers.models.statistics(model, version)
        return json_answer({"model_stats": found})

    async def index(self, scope: Scope, headers: Headers, receive: Receive, call: Call) -> Answer:
        """List the repository's versions and their states."""
        body = await self._body(headers, receive)
        entries = self._runtime.handlers.models.index(ready_only=body.get("ready") is True)
        return json_answer(
            [
                {
                    "name": entry.name,
                    "version": entry.version,
                    "state": _STATES[entry.state],
                    "reason": entry.reason or "",
                }
                for entry in entries
            ]
        )

    async def load(self, scope: Scope, headers: Headers, receive: Receive, call: Call) -> Answer:
        """Load a model, and answer when it serves."""
        guarded(scope, headers, self._runtime.settings)
        body = await self._body(headers, receive)
        if body.get("parameters"):
            # Triton lets a client send files and configuration here; ours come as a version.
            raise InvalidInput(
                "load takes no parameters here; publish files with PUT /models/{m}/versions/{v}",
                field="parameters",
                expected="nothing",
                got=", ".join(str(name)[:40] for name in body["parameters"]),
            )
        await self._runtime.handlers.admin.load(scope["path_params"]["model"], None)
        return json_answer({})

    async def unload(self, scope: Scope, headers: Headers, receive: Receive, call: Call) -> Answer:
        """Stop serving a model."""
        guarded(scope, headers, self._runtime.settings)
        await self._body(headers, receive)
        await self._runtime.handlers.admin.unload(scope["path_params"]["model"], None)
        return json_answer({})

    async def _body(self, headers: Headers, receive: Receive) -> dict[str, Any]:
        runtime = self._runtime
        pool = runtime.handlers.pool
        return await runtime.bodies.read_object(headers, receive, pool, may_be_empty=True)


def _address(scope: Scope) -> tuple[str, str | None]:
    params = scope["path_params"]
    return params["model"], params.get("version")


def describe_tensors(specs: Sequence[TensorInfo]) -> list[dict[str, Any]]:
    """Return tensors as v2 describes them; a dim that varies is -1."""
    return [
        {
            "name": spec.name,
            "datatype": datatype_of(spec.dtype),
            "shape": [dim if isinstance(dim, int) else -1 for dim in spec.shape],
        }
        for spec in specs
    ]


def _config_tensor(spec: TensorInfo, skip: int) -> dict[str, Any]:
    datatype = datatype_of(spec.dtype)
    return {
        "name": spec.name,
        "data_type": f"TYPE_{'STRING' if datatype == 'BYTES' else datatype}",
        "dims": [dim if isinstance(dim, int) else -1 for dim in spec.shape[skip:]],
    }


def routes(runtime: Runtime) -> list[Route]:
    """Return every route under /v2 but the probes."""
    meta = MetadataV2(runtime)
    infer = InferRoute(runtime)
    table: list[Route] = []

    def add(method: str, path: str, answerer: Any, doc: Doc) -> None:
        table.append(Route(method, path, answerer, doc, tensor_door=True))

    tag = "inference v2"
    add("GET", "/v2", meta.server, Doc("Server metadata", tag))
    add("GET", "/v2/models/stats", meta.stats, Doc("Statistics of all models", tag))
    for path in (_MODEL, _VERSION):
        add("POST", f"{path}/infer", infer, Doc("Infer", tag, "V2Request", "V2Reply"))
        add("GET", path, meta.model, Doc("Model metadata", tag))
        add("GET", f"{path}/ready", meta.ready, Doc("Can the model answer? 200 or 503", tag))
        add("GET", f"{path}/config", meta.config, Doc("Triton's model configuration", tag))
        add("GET", f"{path}/stats", meta.stats, Doc("Statistics of a model", tag))
    index = Doc("List versions and their states", tag, "RepositoryIndexBody")
    add("POST", "/v2/repository/index", meta.index, index)
    one = "/v2/repository/models/{model}"
    add("POST", f"{one}/load", meta.load, Doc("Load a model", tag, admin=True))
    add("POST", f"{one}/unload", meta.unload, Doc("Unload a model", tag, admin=True))
    return table
