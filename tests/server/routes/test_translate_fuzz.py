"""Whatever comes to the doors of text, a 4xx of the right shape comes out, or a translation."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.server.routes.test_fuzz import CONTENT_TYPES, FEW, check, places, values
from tests.server.running import RunningServer

VALID: tuple[tuple[str, dict[str, Any]], ...] = (
    (
        "/translate",
        {
            "text": ["ja", "<b>nein</b>"],
            "source": "auto",
            "target": "en",
            "format": "html",
            "glossary": {"ja": "yes"},
            "parameters": {"beams": 2, "n_best": 2, "log_probabilities": True},
            "id": "x",
            "timeout_s": 50,
            "priority": 0,
        },
    ),
    ("/translate", {"q": ["ja"], "source": "de", "target": "en", "alternatives": 1}),
    ("/predict?model=shout", {"inputs": [{"text": "ja"}], "parameters": {"source": "de"}}),
    ("/detect", {"q": "ja"}),
    (
        "/v2/models/shout/infer",
        {"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": ["ja"]}]},
    ),
    ("/v1/models/shout:predict", {"instances": ["ja", {"b64": "amE="}]}),
)


@st.composite
def mutations(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    """A valid request with one to three places replaced or removed."""
    path, valid = draw(st.sampled_from(VALID))
    body = copy.deepcopy(valid)
    for _ in range(draw(st.integers(1, 3))):
        found = places(body)
        if not found:
            break
        *outer, last = draw(st.sampled_from(found))
        holder: Any = body
        for key in outer:
            holder = holder[key]
        if draw(st.booleans()):
            holder[last] = draw(values)
        else:
            del holder[last]
    return path, body


EVENTS = {"Accept": "text/event-stream"}
SOME = settings(FEW, max_examples=60)
texts = st.text(max_size=60) | st.text(st.sampled_from("ab .\n<>&;%{}[]()\0\u200fé🙂\t-*1/:@"))


@pytest.fixture(scope="module")
def client(shouting_server: RunningServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=shouting_server.url, timeout=200.0) as session:
        yield session


@SOME
@given(request=mutations(), events=st.booleans())
def test_mutated_requests(
    client: httpx.Client, request: tuple[str, dict[str, Any]], events: bool
) -> None:
    path, body = request
    headers = EVENTS if events else {}
    content = json.dumps(body).encode("utf-8", "surrogatepass")
    check(client.post(path, content=content, headers=headers))


@SOME
@given(
    content=st.binary(max_size=200),
    kind=st.sampled_from((*CONTENT_TYPES, "application/x-www-form-urlencoded")),
    path=st.sampled_from(["/translate", "/detect", "/translate?text=ja", "/predict?model=shout"]),
)
def test_arbitrary_bytes(client: httpx.Client, content: bytes, kind: str, path: str) -> None:
    check(client.post(path, content=content, headers={"Content-Type": kind}))


@SOME
@given(text=texts, form=st.sampled_from(["text", "html"]), beams=st.integers(1, 3))
def test_any_text_is_translated_or_refused(
    client: httpx.Client, text: str, form: str, beams: int
) -> None:
    body = json.dumps({"text": text, "format": form, "beams": beams}).encode()
    answer = client.post("/translate", content=body)
    assert answer.status_code == 200, answer.text
    [found] = answer.json()["translations"]
    told = client.post("/translate", content=body, headers=EVENTS).text
    blocks = [block.split("\ndata: ") for block in told.split("\n\n") if block]
    pieces = [json.loads(data)["text"] for name, data in blocks if name == "event: text"]
    assert "".join(pieces) == found["text"]


@pytest.mark.parametrize("text", ["\ud800", "a\udfffb. c", "\0", "\u202eabc", "x" * 3000])
def test_odd_texts(client: httpx.Client, text: str) -> None:
    content = json.dumps({"text": text}).encode()  # half a pair as an escape
    answer = client.post("/translate", content=content)
    check(answer)
