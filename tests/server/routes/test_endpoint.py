from __future__ import annotations

import asyncio
import json
import logging
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from server.errors import QueueFull, RequestCancelled
from server.handlers.call import Call
from server.handlers.flights import Flights
from server.metrics import Metrics
from server.routes.answers import Answer, json_answer, to_json
from server.routes.endpoint import Endpoint, Runtime
from server.settings import Settings


class Sent:
    """What an endpoint wrote."""

    def __init__(self) -> None:
        self.messages: list[Any] = []

    async def __call__(self, message: Any) -> None:
        self.messages.append(message)

    @property
    def status(self) -> int:
        return int(self.messages[0]["status"])

    @property
    def body(self) -> Any:
        return json.loads(self.messages[1]["body"])


def runtime(**settings: Any) -> Runtime:
    made = Runtime(Settings(**settings))
    made.start(SimpleNamespace(metrics=Metrics()))  # type: ignore[arg-type]
    return made


async def nothing() -> Any:
    await asyncio.Event().wait()


async def ask(made: Runtime, answerer: Any) -> Sent:
    sent = Sent()
    scope = {"method": "POST", "path": "/x", "headers": []}
    await Endpoint(made, answerer)(scope, nothing, sent)
    return sent


async def test_what_was_not_foreseen_is_500_without_a_trace(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def broken(*_: Any) -> Answer:
        raise ZeroDivisionError("secret detail")

    made = runtime(access_log=True)
    with caplog.at_level(logging.INFO):
        sent = await ask(made, broken)
    assert (sent.status, sent.body["code"]) == (500, "internal")
    assert "secret" not in json.dumps(sent.body)
    assert "secret detail" in caplog.text
    assert sent.body["id"] in caplog.text
    assert made.handlers.metrics.rejections == {"internal": 1}


async def test_a_client_that_went_away_is_written_nothing() -> None:
    async def gone(*_: Any) -> Answer:
        raise RequestCancelled("gone")

    assert (await ask(runtime(), gone)).messages == []


async def test_retry_after_is_in_whole_seconds() -> None:
    async def full(*_: Any) -> Answer:
        raise QueueFull("full", retry_after_s=2.2)

    sent = await ask(runtime(), full)
    assert (b"retry-after", b"3") in sent.messages[0]["headers"]


async def test_cancelled_by_the_shutdown_is_503() -> None:
    async def long(*_: Any) -> Answer:
        await asyncio.Event().wait()
        raise AssertionError

    made = runtime()
    task = asyncio.create_task(ask(made, long))
    await asyncio.sleep(0)
    made.draining = True
    task.cancel()
    sent = await task
    assert (sent.status, sent.body["code"]) == (503, "draining")


async def test_cancelled_for_another_reason_stays_cancelled() -> None:
    async def long(*_: Any) -> Answer:
        await asyncio.Event().wait()
        raise AssertionError

    task = asyncio.create_task(ask(runtime(), long))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_before_the_start_there_is_nothing_to_serve() -> None:
    made = Runtime(Settings())
    assert not made.ready
    with pytest.raises(RuntimeError, match="lifespan"):
        _ = made.handlers


def test_json_of_what_clients_and_models_come_up_with() -> None:
    value = {
        "huge": 2**80,
        "half": "\ud800",
        "nan": float("nan"),
        "strided": np.arange(6).reshape(2, 3).T,
        "float16": np.ones(2, np.float16),
        "texts": np.array(["a", b"b"], object),
        "raw": b"\xff",
        "tuple": (1, 2),
        3: np.float32(1.5),
    }
    read = json.loads(to_json(value))
    assert read["huge"] == str(2**80)
    assert read["nan"] is None
    assert read["strided"] == [[0, 3], [1, 4], [2, 5]]
    assert (read["float16"], read["texts"]) == ([1.0, 1.0], ["a", "b"])
    assert (read["tuple"], read["3"]) == ([1, 2], 1.5)
    assert json_answer({}).body == b"{}"


async def test_a_flight_that_is_answered_leaves_nothing_behind() -> None:
    flights = Flights(tick_s=0.001)
    future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    waiting = asyncio.create_task(flights.wait(future, Call(), float("inf")))
    await asyncio.sleep(0.01)
    assert len(flights) == 1
    future.set_result(5)
    assert await waiting == 5
    assert len(flights) == 0
