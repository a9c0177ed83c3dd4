"""LibreTranslate's API: `/languages`, `/detect`, `/frontend/settings`, its shape of `/translate`.

Its clients send `{"q", "source", "target", "format", "alternatives", "api_key"}` as JSON or a form,
and read `translatedText`. Errors are `{"error": message}` with status 400 for whatever is wrong
with a request; confidence is a percentage. `api_key` is accepted and means nothing here.
"""

from __future__ import annotations

import time
from typing import Any

from server.errors import InvalidInput, PayloadTooLarge, ServerError
from server.handlers.call import Call
from server.handlers.translate import TranslateReply, TranslateRequest
from server.metrics import Phase
from server.routes.answers import Answer, Receive, Scope, json_answer
from server.routes.endpoint import Headers, Runtime
from server.routes.language_names import NAMES
from server.routes.request_options import wrong_kind
from server.routes.table import Doc, Route
from server.routes.translate_body import read_fields, texts_of
from server.tasks.translation import AUTO
from server.text import Detection, base_language

MAX_ALTERNATIVES = 16


async def libre_translate(runtime: Runtime, values: dict[str, Any], call: Call) -> Answer:
    """Answer `/translate` in LibreTranslate's words."""
    texts, listed = texts_of(_needed(values, "q"), "q")
    source, target = _code(values, "source"), _code(values, "target")
    count = _alternatives(values.get("alternatives"))
    if source == target:  # its clients may ask for that, and get the text back
        return json_answer(_shape(texts, [[]] * len(texts), listed, count, []))
    _check_pair(runtime, source, target)
    parameters = {"source": source, "target": target, "format": values.get("format") or "text"}
    if count:
        parameters["n_best"] = count + 1
    request = TranslateRequest(texts, _model(values), None, None, parameters, lenient=True)
    reply = await runtime.handlers.translate.translate(request, call)
    began = time.monotonic()
    answer = json_answer(_answer(reply, listed, count, source == AUTO))
    call.observe(Phase.SERIALIZE, time.monotonic() - began)
    return answer


def _answer(reply: TranslateReply, listed: bool, count: int, auto: bool) -> dict[str, Any]:
    done = []
    for outcome in reply.outcomes:
        if isinstance(outcome, PayloadTooLarge):  # a text, not the body: its clients expect 400
            raise InvalidInput(f"Invalid request: {outcome.message}", **outcome.extra)
        if isinstance(outcome, ServerError):  # there is no place for it in this shape
            raise outcome
        done.append(outcome)
    others = [[text for text, _ in each.alternatives] for each in done]
    detected = [_detected(each.detected) for each in done] if auto else []
    return _shape([each.text for each in done], others, listed, count, detected)


def _shape(
    texts: list[str],
    others: list[list[str]],
    listed: bool,
    count: int,
    detected: list[dict[str, Any]],
) -> dict[str, Any]:
    content: dict[str, Any] = {"translatedText": texts if listed else texts[0]}
    if count:
        content["alternatives"] = others if listed else others[0]
    if detected:
        content["detectedLanguage"] = detected if listed else detected[0]
    return content


def _detected(found: Detection | None) -> dict[str, Any]:
    if found is None:
        return {"confidence": 0.0, "language": "en"}  # what LibreTranslate says of no letters
    return {"confidence": round(100 * found.confidence, 1), "language": found.language}


def _needed(values: dict[str, Any], name: str) -> Any:
    if values.get(name) is None:
        raise InvalidInput(f"Invalid request: missing {name} parameter", field=name)
    return values[name]


def _code(values: dict[str, Any], name: str) -> str:
    value = _needed(values, name)
    if not isinstance(value, str) or not 1 <= len(value) <= 40:
        raise wrong_kind(name, "the code of a language", value)
    return value


def _model(values: dict[str, Any]) -> str | None:
    model = values.get("model")
    if model is not None and not isinstance(model, str):
        raise wrong_kind("model", "a string", model)
    return model


def _alternatives(value: Any) -> int:
    if value is None:
        return 0
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_ALTERNATIVES:
        raise wrong_kind("alternatives", f"an integer from 0 to {MAX_ALTERNATIVES}", value)
    return value


def _check_pair(runtime: Runtime, source: str, target: str) -> None:
    """Refuse languages that no model has, in LibreTranslate's words."""
    pairs = runtime.handlers.translate.languages()
    targets = {code for each in pairs.values() for code in each}
    if not pairs:  # the models do not say: they answer themselves
        return
    for code, known in ((source, {*pairs, AUTO}), (target, targets)):
        if base_language(code) not in known:
            raise InvalidInput(
                f"{code} is not supported", expected=sorted(known - {AUTO}), got=code
            )
    if source != AUTO and base_language(target) not in pairs[base_language(source)]:
        raise InvalidInput(
            f"{_name(target)} ({target}) is not available as a target language from "
            f"{_name(source)} ({source})",
            expected=sorted(pairs[base_language(source)]),
            got=target,
        )


def _name(code: str) -> str:
    return NAMES.get(base_language(code), code)


class LibreRoutes:
    """The answerers of LibreTranslate's other routes."""

    def __init__(self, runtime: Runtime) -> None:
        """Keep the runtime."""
        self._runtime = runtime

    async def languages(
        self, scope: Scope, headers: Headers, receive: Receive, call: Call
    ) -> Answer:
        """List source languages, each with what it can be translated to."""
        pairs = self._runtime.handlers.translate.languages()
        codes = {*pairs, *(code for targets in pairs.values() for code in targets)}
        return json_answer(
            [
                {
                    "code": code,
                    "name": NAMES.get(code, code),
                    "targets": sorted({code, *pairs.get(code, ())}),
                }
                for code in sorted(codes)
            ]
        )

    async def detect(self, scope: Scope, headers: Headers, receive: Receive, call: Call) -> Answer:
        """Say which languages a text may be in."""
        runtime = self._runtime
        pool = runtime.handlers.pool
        body = await runtime.bodies.read(headers, receive, pool)
        about = headers.get(b"content-type", b""), scope["query_string"]
        large = len(body) > runtime.settings.max_inline_json_bytes
        values = await pool.run(read_fields, body, *about) if large else read_fields(body, *about)
        texts, _ = texts_of(_needed(values, "q"), "q")
        found = await runtime.handlers.translate.detect("\n".join(texts))
        likely = [each for each in found[:5] if each.confidence >= 0.01]
        return json_answer([_detected(each) for each in likely] or [_detected(None)])

    async def settings(
        self, scope: Scope, headers: Headers, receive: Receive, call: Call
    ) -> Answer:
        """Tell LibreTranslate's web page and clients what there is."""
        pairs = self._runtime.handlers.translate.languages()
        target = next((sorted(each)[0] for each in pairs.values() if each), "en")
        return json_answer(
            {
                "apiKeys": False,
                "keyRequired": False,
                "charLimit": -1,
                "filesTranslation": False,
                "suggestions": False,
                "supportedFilesFormat": [],
                "frontendTimeout": 500,
                "language": {
                    "source": {"code": AUTO, "name": "Auto Detect"},
                    "target": {"code": target, "name": NAMES.get(target, target)},
                },
            }
        )


def routes(runtime: Runtime) -> list[Route]:
    """Return what LibreTranslate's clients ask beside `/translate`."""
    libre = LibreRoutes(runtime)
    tag = "LibreTranslate"
    return [
        Route(
            *("GET", "/languages", libre.languages),
            Doc("Languages, and what each can be translated to", tag, answer="LibreLanguages"),
            tensor_door=True,
        ),
        Route(
            *("POST", "/detect", libre.detect),
            Doc("Which language is this?", tag, "LibreDetect", "LibreDetections"),
            tensor_door=True,
        ),
        Route(
            *("GET", "/frontend/settings", libre.settings),
            Doc("What LibreTranslate's clients want to know first", tag),
            tensor_door=True,
        ),
    ]
