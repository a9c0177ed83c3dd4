"""How translations end that do not end well: clients that go, deadlines, full queues, shutdown."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from server.settings import Settings
from tests.server.running import RunningServer, get, running_server, wait_until
from tests.server.shouting import MODELS, ShoutingModel, shouting_models, write_shouting

EVENTS = {"Accept": "text/event-stream"}
LIMITS = "[translation]\nrows = 2\nsources = 2\nmax_queue_sentences = 4\ncache_bytes = 0\n"


@contextmanager
def serving(root: Path, **settings: object) -> Iterator[tuple[RunningServer, ShoutingModel]]:
    write_shouting(root, model_toml=LIMITS)
    options = {"isolate": False, "watch": False, "settle_s": 0.0, "worker_threads": 1, **settings}
    with shouting_models(), running_server(Settings(repository=root, **options)) as server:
        model = MODELS["shout"]
        try:
            yield server, model
        finally:
            model.gate.set()


@pytest.fixture(scope="module")
def served(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[RunningServer, ShoutingModel]]:
    with serving(tmp_path_factory.mktemp("ends")) as served:
        yield served


def all_free(model: ShoutingModel) -> bool:
    decoder = model.decoders[-1]
    return (decoder.free_rows, decoder.free_sources) == (2, 2)


def count(server: RunningServer, code: str) -> float:
    lines = get(f"{server.url}/metrics").text.splitlines()
    found = [line for line in lines if "requests_total" in line and f'code="{code}"' in line]
    return sum(float(line.split()[-1]) for line in found)


def ask(server: RunningServer, body: object, **options: object) -> httpx.Response:
    return httpx.post(f"{server.url}/translate", json=body, timeout=200.0, **options)


def test_a_client_that_goes_away_is_counted_and_frees_all(
    served: tuple[RunningServer, ShoutingModel],
) -> None:
    server, model = served
    before = count(server, "cancelled")
    model.gate.clear()
    impatient = httpx.Timeout(200.0, read=0.4)
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{server.url}/translate", json={"text": "ja. nein. doch."}, timeout=impatient)
    wait_until(lambda: count(server, "cancelled") == before + 1)
    model.gate.set()
    wait_until(lambda: all_free(model))
    assert ask(server, {"text": "ja"}).status_code == 200


def test_a_deadline_ends_a_translation(served: tuple[RunningServer, ShoutingModel]) -> None:
    server, model = served
    model.gate.clear()
    body = {"text": "ja. nein. doch.", "timeout_s": 0.2}
    answer = ask(server, body)
    assert (answer.status_code, answer.json()["code"]) == (504, "deadline_exceeded")
    told = ask(server, body, headers=EVENTS)
    assert told.status_code == 504 or '"code":"deadline_exceeded"' in told.text
    model.gate.set()
    wait_until(lambda: all_free(model))


async def test_a_full_queue_says_when_to_come_back(
    served: tuple[RunningServer, ShoutingModel],
) -> None:
    server, model = served
    model.gate.clear()
    async with httpx.AsyncClient(base_url=server.url, timeout=200.0) as client:

        async def ask_for(number: int) -> httpx.Response:
            return await client.post("/translate", json={"text": f"satz {'a' * number}"})

        waiting = [asyncio.ensure_future(ask_for(number)) for number in range(12)]
        done: set[asyncio.Future[httpx.Response]] = set()
        while not done:
            done, _ = await asyncio.wait(waiting, timeout=5.0, return_when="FIRST_COMPLETED")
        model.gate.set()
        answers = await asyncio.gather(*waiting)
    refused = [answer for answer in answers if answer.status_code == 429]
    assert refused and {answer.status_code for answer in answers} == {200, 429}
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
    longer = {"text": "Eins.\nZwei.\nDrei.\nVier.\nElf.\nZehn.\nNeun."}  # than the whole queue
    assert ask(server, longer).status_code == 200


def test_a_stream_is_told_that_the_server_stops(tmp_path: Path) -> None:
    with serving(tmp_path, drain_timeout_s=0.3) as (server, model):
        stream = httpx.stream(
            "POST",
            f"{server.url}/translate",
            json={"text": "\n\nEins."},
            headers=EVENTS,
            timeout=200.0,
        )
        model.gate.clear()
        with stream as answer:
            lines = answer.iter_lines()
            assert next(lines) == "event: text"  # what comes before the first word
            server._server.should_exit = True
            rest = list(lines)
            model.gate.set()
        assert "event: error" in rest and '"code":"draining"' in "".join(rest)
