"""`POST /v2/models/{m}[/versions/{v}]/infer`: the tensor door of the Open Inference Protocol."""

from __future__ import annotations

import time
from typing import Any

from server.handlers.call import Call
from server.handlers.infer import InferRequest
from server.metrics import Phase
from server.routes.answers import Answer, Receive, Scope
from server.routes.endpoint import Headers, Runtime, timeout_seconds
from server.routes.v2_reply import chosen_encoding, compress, encode_reply
from server.routes.v2_request import V2Request, decode_raw, decode_request, header_length

NORMAL_PRIORITY = 5  # Triton's 1 is the most urgent; ours grows with urgency, 0 being normal


class InferRoute:
    """Answers infer requests; the model and version come from the path."""

    def __init__(self, runtime: Runtime) -> None:
        """Keep what every request uses."""
        self._runtime = runtime
        self._inline = runtime.settings.max_inline_json_bytes

    async def __call__(
        self, scope: Scope, headers: Headers, receive: Receive, call: Call
    ) -> Answer:
        """Answer one request."""
        runtime = self._runtime
        params = scope["path_params"]
        pool = runtime.handlers.pool
        body = await runtime.bodies.read(headers, receive, pool)
        began = time.monotonic()
        request, infer = await self._decode(body, headers, call)
        infer.model, infer.version = params["model"], params.get("version")
        parse_s = time.monotonic() - began
        reply = await runtime.handlers.infer(infer, call, parse_s)
        began = time.monotonic()
        if call.output_bytes > self._inline and not _all_binary(request):
            answer = await pool.run(encode_reply, reply, request)
        else:
            answer = encode_reply(reply, request)
        call.observe(Phase.SERIALIZE, time.monotonic() - began)
        packing = chosen_encoding(headers.get(b"accept-encoding", b""), len(answer.body))
        if packing is not None:
            answer.body = await pool.run(compress, answer.body, packing)
            answer.headers.append((b"content-encoding", packing.encode()))
            answer.headers.append((b"vary", b"accept-encoding"))
        return answer

    async def _decode(
        self, body: bytes, headers: Headers, call: Call
    ) -> tuple[V2Request, InferRequest]:
        json_bytes = header_length(headers, len(body))
        if json_bytes == 0:
            raw = V2Request({}, None, binary=True)
            large = len(body) > self._inline
            return raw, InferRequest(lambda specs: decode_raw(body, specs), "", large=large)
        # Binary tensors are views of the body and cost nothing, unless they are texts.
        head = body if json_bytes is None else body[:json_bytes]
        if len(head) > self._inline or (len(body) > self._inline and b'"BYTES"' in head):
            request = await self._runtime.handlers.pool.run(decode_request, body, json_bytes)
        else:
            request = decode_request(body, json_bytes)
        _take_parameters(request.parameters, call)
        if request.id:
            call.id = _header_safe(request.id) or call.id
        names = tuple(wanted.name for wanted in request.outputs) if request.outputs else None
        return request, InferRequest(lambda specs: request.arrays, "", fetches=names)


def _all_binary(request: V2Request) -> bool:
    if request.outputs is None:
        return request.binary
    return all(wanted.binary and not wanted.classes for wanted in request.outputs)


def _take_parameters(parameters: Any, call: Call) -> None:
    timeout_us = parameters.get("timeout", 0)
    if timeout_us != 0:  # 0 is how clients say "none"
        call.timeout_s = timeout_seconds(timeout_us, "parameters.timeout", 1e-6)
    priority = parameters.get("priority", 0)
    if type(priority) is int and priority > 0:
        call.priority = max(-9, NORMAL_PRIORITY - priority)


def _header_safe(text: str) -> str | None:
    return text if len(text) <= 128 and text.isascii() and text.isprintable() else None
