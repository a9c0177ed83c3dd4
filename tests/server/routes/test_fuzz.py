"""Whatever comes in, a 4xx of the right shape comes out, and the server goes on answering."""

from __future__ import annotations

import copy
import json
import socket
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.server.running import RunningServer, get

Check = Callable[..., None]

DOORS = (
    "/predict",
    "/predict?model=digits",
    "/classify?model=digits",
    "/embed?model=features",
    "/v2/models/digits/infer",
    "/v2/models/pair/infer",
    "/v2/models/whole/versions/1/infer",
    "/v1/models/echo:predict",
    "/v1/models/pair:predict",
    "/v2/repository/index",
)
CONTENT_TYPES = (
    "application/json",
    "multipart/form-data; boundary=b",
    "multipart/form-data",
    "image/png",
    "image/jpeg",
    "text/plain",
    "application/octet-stream",
    "",
)
VALID: tuple[tuple[str, dict[str, Any]], ...] = (
    (
        "/predict",
        {
            "model": "pair",
            "version": "1",
            "inputs": [{"tensors": {"a": [1.0, 2.0], "b": [3, 4]}}, {"image": {"b64": "aGk="}}],
            "parameters": {},
            "id": "x",
            "timeout_s": 5,
            "priority": 0,
        },
    ),
    (
        "/v2/models/pair/infer",
        {
            "id": "1",
            "parameters": {"timeout": 1000000, "priority": 1, "binary_data_output": True},
            "inputs": [
                {"name": "a", "shape": [1, 2], "datatype": "FP32", "data": [1.0, 2.0]},
                {"name": "b", "shape": [1, 2], "datatype": "INT64", "data": [[3, 4]]},
            ],
            "outputs": [
                {"name": "same", "parameters": {"binary_data": True}},
                {"name": "doubled", "parameters": {"classification": 1}},
            ],
        },
    ),
    ("/v1/models/pair:predict", {"instances": [{"a": [1, 2], "b": [3, 4]}]}),
    ("/v1/models/echo:predict", {"inputs": {"x": [[1, 2]]}, "signature_name": ""}),
)
FEW = settings(
    max_examples=120,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
MANY = settings(FEW, max_examples=5000)

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["..", "../../etc/passwd", "\0", "a/b", "é" * 300, "digits", "FP16", "BYTES"]),
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=3)
    ),
    max_leaves=12,
)


# A deadline of a picosecond is rightly missed, with a 504, and that is no client's error.
DEADLINES = ("timeout", "timeout_s")
LONG_ENOUGH = 1e8  # microseconds, or seconds


def is_brief(value: Any) -> bool:
    """Say whether a deadline is one that may pass."""
    try:
        return isinstance(value, int | float | str) and 0 < float(value) < LONG_ENOUGH
    except (ValueError, OverflowError):
        return False


def check(answer: httpx.Response) -> None:
    """An answer is a success, or one error shape with a client's status."""
    assert 200 <= answer.status_code < 500, answer.text
    assert answer.headers["x-request-id"]
    assert "Traceback" not in answer.text
    if answer.status_code >= 400:
        body = answer.json()
        assert isinstance(body["error"], str)
        assert isinstance(body["code"], str)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the path of everything inside a JSON value."""
    inner: list[tuple[Any, ...]] = [path] if path else []
    if isinstance(value, dict):
        return inner + [found for key in value for found in places(value[key], (*path, key))]
    if isinstance(value, list):
        return inner + [found for n, item in enumerate(value) for found in places(item, (*path, n))]
    return inner


@st.composite
def mutations(draw: st.DrawFn) -> tuple[str, bytes]:
    """A valid request with one to three places replaced, removed, doubled or renamed."""
    path, valid = draw(st.sampled_from(VALID))
    body = copy.deepcopy(valid)
    for _ in range(draw(st.integers(1, 3))):
        *outer, last = draw(st.sampled_from(places(body) or [("inputs",)]))
        holder: Any = body
        for key in outer:
            holder = holder[key]
        match draw(st.sampled_from(["replace", "remove", "double", "rename"])):
            case "replace":
                patient = last in DEADLINES
                holder[last] = draw(values.filter(lambda v: not is_brief(v)) if patient else values)
            case "remove":
                del holder[last]
            case "double" if isinstance(holder, list):
                holder.append(copy.deepcopy(holder[last]))
            case "rename" if isinstance(holder, dict):
                holder[draw(st.text(max_size=8))] = holder.pop(last)
            case _:
                pass
        if not body:
            break
    # Python writes NaN, Infinity and lone surrogates, which other clients can send as well.
    return path, json.dumps(body).encode()


def garbage(server: RunningServer, bound: settings) -> None:
    with httpx.Client(base_url=server.url, timeout=200.0) as client:

        @bound
        @given(st.sampled_from(DOORS), st.sampled_from(CONTENT_TYPES), st.binary(max_size=400))
        def send(door: str, content_type: str, body: bytes) -> None:
            check(client.post(door, content=body, headers={"Content-Type": content_type}))

        send()
        assert client.get("/v2/health/ready").status_code == 200


def mutated(server: RunningServer, bound: settings) -> None:
    with httpx.Client(base_url=server.url, timeout=200.0) as client:

        @bound
        @given(mutations(), st.sampled_from([None, None, "0", "5", "40", "-3", "1e9"]))
        def send(request: tuple[str, bytes], head: str | None) -> None:
            path, body = request
            headers = {} if head is None else {"Inference-Header-Content-Length": head}
            check(client.post(path, content=body, headers=headers))

        send()
        assert client.get("/v2/health/ready").status_code == 200


paths = st.lists(
    st.sampled_from(
        [
            *("v1", "v2", "models", "predict", "digits", "versions", "labels", "infer", "1"),
            *("..", "%2e%2e", "%2f", "%00", "%ff", "a" * 300, "digits:predict", "", ".", "%0d%0a"),
        ]
    ),
    max_size=7,
)


def wandering(server: RunningServer, bound: settings) -> None:
    with httpx.Client(base_url=server.url, timeout=200.0) as client:

        @bound
        @given(paths, st.sampled_from(["GET", "POST", "HEAD", "PATCH", "OPTIONS"]))
        def send(parts: list[str], method: str) -> None:
            url = httpx.URL(server.url).copy_with(raw_path=("/" + "/".join(parts)).encode())
            answer = client.request(method, url, content=b"{}" if method == "POST" else None)
            if method != "HEAD":
                check(answer)

        send()
        assert client.get("/v2/health/ready").status_code == 200


names = st.sampled_from(
    [
        *("Content-Length", "Content-Type", "Content-Encoding", "Transfer-Encoding", "Expect"),
        *("Inference-Header-Content-Length", "X-Request-Id", "X-Request-Timeout", "Host"),
        *("Accept-Encoding", "Authorization", "Connection", "Origin", "X-Other"),
    ]
)
words = st.one_of(
    st.sampled_from(["gzip", "chunked", "100-continue", "close", "-1", "99999999999", "Bearer"]),
    st.text(st.characters(min_codepoint=32, max_codepoint=255), max_size=20),
)


def strange_headers(server: RunningServer, bound: settings) -> None:
    host, _, port = server.url.removeprefix("http://").partition(":")

    @bound
    @given(
        st.sampled_from(
            ["/predict", "/v2/models/pair/infer", "/v1/models/echo:predict", "/models"]
        ),
        st.lists(st.tuples(names, words), max_size=4),
        st.binary(max_size=50),
    )
    def send(path: str, headers: list[tuple[str, str]], body: bytes) -> None:
        lines = [f"POST {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers)]
        with socket.create_connection((host, int(port)), timeout=200.0) as connection:
            connection.sendall("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body)
            connection.shutdown(socket.SHUT_WR)
            received = b""
            while chunk := connection.recv(65536):
                received += chunk
        if received.startswith(b"HTTP/1.1 100"):
            received = received.partition(b"\r\n\r\n")[2]
        # A connection that ends before its request is whole is owed no answer.
        if received:
            head, _, content = received.partition(b"\r\n\r\n")
            assert 400 <= int(head.split()[1]) < 500, received
            assert b'"error"' in content, received

    send()
    assert get(f"{server.url}/v2/health/ready").status_code == 200


FUZZERS = [garbage, mutated, wandering, strange_headers]


@pytest.mark.parametrize("fuzz", FUZZERS)
def test_doors_under_fuzz(server: RunningServer, fuzz: Check) -> None:
    fuzz(server, FEW)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("fuzz", FUZZERS)
def test_doors_under_much_fuzz(server: RunningServer, fuzz: Check) -> None:
    fuzz(server, MANY)
