"""`/v1/models/...`: TensorFlow Serving's REST, rows (`instances`) and columns (`inputs`)."""

from __future__ import annotations

import base64
import binascii
import json
import time
from typing import Any

import numpy as np

from server.errors import InvalidInput, MalformedRequest, NotFound
from server.handlers.call import Call
from server.handlers.infer import InferReply, InferRequest
from server.metrics import Phase
from server.repository.status import State, VersionStatus
from server.routes.answers import JSON, Answer, Receive, Scope, json_answer, to_json
from server.routes.bodies import parse_object
from server.routes.endpoint import Headers, Runtime
from server.routes.table import Doc, Route
from server.routes.v2_reply import datatype_of
from server.serving import serving_of
from server.tasks.values import to_array
from server.tensors import TensorInfo

SIGNATURE = "serving_default"
KEYS = ("inputs", "instances", "signature_name")
_STATES = {
    State.LOADING: "LOADING",
    State.READY: "AVAILABLE",
    State.DRAINING: "UNLOADING",
    State.UNLOADED: "END",
    State.FAILED: "END",
}
_TYPES = {"BOOL": "DT_BOOL", "BYTES": "DT_STRING", "FP16": "DT_HALF", "FP32": "DT_FLOAT"}
_TYPES |= {"FP64": "DT_DOUBLE", "BF16": "DT_BFLOAT16"}
Array = np.ndarray[Any, Any]


class TensorflowRoutes:
    """The answerers of `/v1`."""

    def __init__(self, runtime: Runtime) -> None:
        """Keep the runtime."""
        self._runtime = runtime

    async def predict(self, scope: Scope, headers: Headers, receive: Receive, call: Call) -> Answer:
        """Run the model on rows or columns."""
        runtime = self._runtime
        pool = runtime.handlers.pool
        body = await runtime.bodies.read(headers, receive, pool)
        began = time.monotonic()
        inline = runtime.settings.max_inline_json_bytes
        large = len(body) > inline
        content = await pool.run(read_body, body) if large else read_body(body)
        rows = "instances" in content
        value = content["instances"] if rows else content["inputs"]

        def feeds(specs: tuple[TensorInfo, ...]) -> dict[str, Array]:
            return feeds_of_rows(value, specs) if rows else feeds_of_columns(value, specs)

        params = scope["path_params"]
        infer = InferRequest(
            feeds, params["model"], params.get("version"), params.get("label"), large=large
        )
        parse_s = time.monotonic() - began
        reply = await runtime.handlers.infer(infer, call, parse_s)
        began = time.monotonic()
        encode = encode_rows if rows else encode_columns
        if call.output_bytes > inline:
            answer = await pool.run(encode, reply)
        else:
            answer = encode(reply)
        call.observe(Phase.SERIALIZE, time.monotonic() - began)
        return answer

    async def status(self, scope: Scope, headers: Headers, receive: Receive, call: Call) -> Answer:
        """Return the state of a model's versions."""
        params = scope["path_params"]
        handlers = self._runtime.handlers.models
        [status] = handlers.status(params["model"])
        version, label = params.get("version"), params.get("label")
        if label is not None:
            version = status.labels.get(label)
        chosen = [item for item in status.versions if version in (None, item.version)]
        if (version is None and label is not None) or not chosen:
            raise NotFound(
                f"model {status.name!r} has no version {(label or version or '')[:200]!r}"
            )
        return json_answer({"model_version_status": [_version_status(item) for item in chosen]})

    async def metadata(
        self, scope: Scope, headers: Headers, receive: Receive, call: Call
    ) -> Answer:
        """Return a model's signature."""
        params = scope["path_params"]
        with self._runtime.handlers.repository.lease(
            params["model"], params.get("version"), params.get("label")
        ) as lease:
            serving = serving_of(lease.deployment)
            signature = {
                "inputs": {spec.name: _tensor_info(spec) for spec in serving.inputs},
                "outputs": {spec.name: _tensor_info(spec) for spec in serving.outputs},
                "method_name": "tensorflow/serving/predict",
            }
            spec = {
                "name": lease.deployment.model,
                "signature_name": "",
                "version": lease.deployment.version,
            }
        definition = {"signature_def": {"signature_def": {SIGNATURE: signature}}}
        return json_answer({"model_spec": spec, "metadata": definition})


def read_body(body: bytes) -> dict[str, Any]:
    """Return the checked JSON of a predict request; NaN and Infinity are numbers here."""
    try:
        content = parse_object(body)
    except MalformedRequest:
        if b"NaN" not in body and b"Infinity" not in body:
            raise
        content = _with_nan(body)
    unknown = [key for key in content if key not in KEYS]
    if unknown or ("instances" in content) == ("inputs" in content):
        raise InvalidInput(
            "send `instances` (rows) or `inputs` (columns), one of the two, and `signature_name`",
            field=unknown[0][:80] if unknown else "instances",
            expected=list(KEYS),
            got=[key[:80] for key in content],
        )
    name = content.get("signature_name", SIGNATURE)
    if name not in ("", SIGNATURE):
        raise InvalidInput(
            f"there is one signature, {SIGNATURE!r}",
            field="signature_name",
            expected=SIGNATURE,
            got=str(name)[:80],
        )
    return content


def _with_nan(body: bytes) -> dict[str, Any]:
    try:
        content = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise MalformedRequest(f"the body is not valid JSON: {str(error)[:200]}") from None
    if not isinstance(content, dict):
        raise MalformedRequest(f"expected a JSON object, got {type(content).__name__}")
    return content


def feeds_of_rows(rows: Any, specs: tuple[TensorInfo, ...]) -> dict[str, Array]:
    """Return the arrays of `instances`: a list of values, or of {name: value}."""
    if not isinstance(rows, list) or not rows:
        raise InvalidInput(
            "`instances` must be a list of one row or more", field="instances", expected="a list"
        )
    if not isinstance(rows[0], dict) or set(rows[0]) == {"b64"}:
        return _feeds({_only(specs, "instances"): rows}, specs, "instances")
    names = set(rows[0])
    if any(not isinstance(row, dict) or set(row) != names for row in rows):
        raise InvalidInput("every row must name the same inputs", field="instances")
    return _feeds({name: [row[name] for row in rows] for name in names}, specs, "instances")


def feeds_of_columns(columns: Any, specs: tuple[TensorInfo, ...]) -> dict[str, Array]:
    """Return the arrays of `inputs`: {name: tensor}, or the tensor of the only input."""
    if isinstance(columns, dict) and set(columns) != {"b64"}:
        return _feeds(columns, specs, "inputs")
    return _feeds({_only(specs, "inputs"): columns}, specs, "inputs")


def _only(specs: tuple[TensorInfo, ...], field: str) -> str:
    if len(specs) != 1:
        names = [spec.name for spec in specs]
        raise InvalidInput(
            f"the model has {len(specs)} inputs; name them: {', '.join(names)}",
            field=field,
            expected=names,
        )
    return specs[0].name


def _feeds(values: dict[str, Any], specs: tuple[TensorInfo, ...], field: str) -> dict[str, Array]:
    known = {spec.name: spec for spec in specs}
    feeds: dict[str, Array] = {}
    for name, value in values.items():
        spec = known.get(name)
        if spec is None:
            raise InvalidInput(
                f"unknown input {name[:80]!r}; the model's inputs are {', '.join(known)}",
                field=field,
                expected=list(known),
                got=name[:80],
            )
        text = datatype_of(spec.dtype) == "BYTES"
        dtype = np.dtype(object) if text else np.dtype(spec.dtype)
        feeds[name] = to_array(_decoded(value) if text else value, dtype, f"{field}.{name[:80]}")
    return feeds


def _decoded(value: Any) -> Any:
    """Undo `{"b64": ...}` in nested lists of strings."""
    if isinstance(value, list):
        return [_decoded(item) for item in value]
    if isinstance(value, dict) and set(value) == {"b64"} and isinstance(value["b64"], str):
        try:
            raw = base64.b64decode(value["b64"], validate=True)
        except (binascii.Error, ValueError):
            raise InvalidInput("a `b64` value is not base64", field="b64") from None
        return raw.decode("utf-8", "surrogateescape")
    return value


def encode_rows(reply: InferReply) -> Answer:
    """Write `predictions`: one value per row, or {name: value} with several outputs."""
    if any(array.ndim == 0 for array in reply.outputs.values()):
        raise InvalidInput("an output has no rows; ask with `inputs` instead", field="instances")
    columns = {name: _listed(name, array) for name, array in reply.outputs.items()}
    if len(columns) == 1:
        [predictions] = columns.values()
        return _json(reply, {"predictions": predictions})
    if len({len(column) for column in columns.values()}) != 1:
        raise InvalidInput(
            "the outputs differ in rows; ask with `inputs` instead", field="instances"
        )
    rows = zip(*columns.values(), strict=True)
    return _json(reply, {"predictions": [dict(zip(columns, row, strict=True)) for row in rows]})


def encode_columns(reply: InferReply) -> Answer:
    """Write `outputs`: the tensor, or {name: tensor} with several outputs."""
    columns = {name: _listed(name, array) for name, array in reply.outputs.items()}
    outputs = next(iter(columns.values())) if len(columns) == 1 else columns
    return _json(reply, {"outputs": outputs})


def _listed(name: str, array: Array) -> Any:
    if array.dtype.kind in "OSU" and name.endswith("_bytes"):  # the protocol's mark for binary
        return np.vectorize(_as_b64, otypes=[object])(array).tolist()
    return array.tolist()


def _as_b64(text: Any) -> dict[str, str]:
    raw = text if isinstance(text, bytes) else str(text).encode("utf-8", "surrogateescape")
    return {"b64": base64.b64encode(raw).decode()}


def _json(reply: InferReply, content: dict[str, Any]) -> Answer:
    finite = all(
        array.dtype.kind != "f" or np.isfinite(array).all() for array in reply.outputs.values()
    )
    # TensorFlow's JSON has NaN and Infinity; orjson, rightly, does not.
    body = to_json(content) if finite else json.dumps(content).encode()
    return Answer(200, body, [JSON])


def _version_status(item: VersionStatus) -> dict[str, Any]:
    failed = item.state is State.FAILED
    return {
        "version": item.version,
        "state": _STATES[item.state],
        "status": {
            "error_code": "UNKNOWN" if failed else "OK",
            "error_message": (item.reason or "") if failed else "",
        },
    }


def _tensor_info(spec: TensorInfo) -> dict[str, Any]:
    datatype = datatype_of(spec.dtype)
    dims = [{"size": str(dim) if isinstance(dim, int) else "-1"} for dim in spec.shape]
    return {
        "name": spec.name,
        "dtype": _TYPES.get(datatype, f"DT_{datatype}"),
        "tensor_shape": {"dim": dims, "unknown_rank": False},
    }


def routes(runtime: Runtime) -> list[Route]:
    """Return every route under /v1."""
    v1 = TensorflowRoutes(runtime)
    table: list[Route] = []
    tag = "TensorFlow Serving v1"
    model = "/v1/models/{model}"
    for path in (model, f"{model}/versions/{{version}}", f"{model}/labels/{{label}}"):
        predict = Doc("Predict on rows or columns", tag, "V1Predict")
        table += [
            Route("POST", f"{path}:predict", v1.predict, predict, tensor_door=True),
            Route("GET", f"{path}/metadata", v1.metadata, Doc("Signature", tag), tensor_door=True),
            Route("GET", path, v1.status, Doc("Version states", tag), tensor_door=True),
        ]
    return table
