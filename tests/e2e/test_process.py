"""Real processes and real signals."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.conftest import Served
from tests.server.running import wait_until
from tests.server.zoo import add_digits, add_echo

pytestmark = pytest.mark.e2e

ITEM = {"inputs": [{"tensors": {"x": [1.0, 2.0]}}]}
Serve = Callable[..., Served]


def waiting(seconds: float) -> str:
    return f"[batching]\nmax_queue_delay_us = {int(seconds * 1e6)}\n"


def metrics_of(url: str) -> str:
    return httpx.get(f"{url}/metrics", timeout=60.0).text


class Background:
    """One request in a thread."""

    def __init__(self, url: str) -> None:
        self.answer: httpx.Response | None = None
        self._thread = threading.Thread(target=self._send, args=(url,))
        self._thread.start()
        # It is in the queue, where it then waits for seconds.
        wait_until(lambda: re.search(r"queue_depth\S* 1(\.0)?$", metrics_of(url), re.MULTILINE))

    def _send(self, url: str) -> None:
        self.answer = httpx.post(f"{url}/predict", json=ITEM, timeout=60.0)

    def result(self) -> httpx.Response:
        self._thread.join(30.0)
        assert self.answer is not None
        return self.answer


def test_the_printed_line_works_and_sigterm_ends_it(serve: Serve, tmp_path: Path) -> None:
    folder = add_digits(tmp_path, "1")
    (folder / "samples").mkdir()
    from PIL import Image

    Image.new("L", (28, 28), 90).save(folder / "samples" / "seven.png")
    served = serve(tmp_path)
    line = served.read_until(r"Ready\. Try:\s+(curl .*)\n").group(1)
    out = subprocess.run(["bash", "-c", line], capture_output=True, check=True, timeout=60.0)
    assert json.loads(out.stdout)["results"][0]["predictions"]
    served.terminate()
    assert served.wait(15) == 0, served.output
    assert "Traceback" not in served.output


def test_readiness_turns_503_while_the_server_still_answers(serve: Serve, tmp_path: Path) -> None:
    add_echo(tmp_path, "echo")
    served = serve(tmp_path, shutdown_delay_s="1.5")
    with httpx.Client(base_url=served.url, timeout=60.0) as client:
        served.terminate()
        statuses = set()
        end = time.monotonic() + 1.0
        while time.monotonic() < end and 503 not in statuses:
            statuses.add(client.get("/v2/health/ready").status_code)
        assert 503 in statuses
        assert client.post("/predict", json=ITEM).status_code == 200
    assert served.wait(15) == 0


def test_requests_in_flight_are_finished(serve: Serve, tmp_path: Path) -> None:
    add_echo(tmp_path, "late", waiting(4.0))
    served = serve(tmp_path)
    request = Background(served.url)
    served.terminate()
    assert request.result().status_code == 200, request.result().text
    assert served.wait(15) == 0
    with pytest.raises(httpx.ConnectError):
        httpx.get(served.url)


def test_the_drain_is_bounded(serve: Serve, tmp_path: Path) -> None:
    add_echo(tmp_path, "late", waiting(10.0))
    served = serve(tmp_path, "--drain-timeout-s", "1")
    request = Background(served.url)
    host, _, port = served.url.removeprefix("http://").partition(":")
    with (
        socket.create_connection((host, int(port))) as stuck,
        socket.create_connection((host, int(port))) as silent,
    ):
        stuck.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n{")
        silent.sendall(b"GET")
        began = time.monotonic()
        served.terminate()
        status = served.wait(15)
        assert time.monotonic() - began < 6.0
    assert status == 0, served.output
    answer: Any = request.result()
    assert (answer.status_code, answer.json()["code"]) == (503, "draining")
    assert "Traceback" not in served.output, served.output


def test_a_second_signal_does_not_wait(serve: Serve, tmp_path: Path) -> None:
    add_echo(tmp_path, "late", waiting(10.0))
    served = serve(tmp_path, "--drain-timeout-s", "25")
    request = Background(served.url)
    served.terminate()
    served.read_until("draining")
    began = time.monotonic()
    served.terminate()
    served.wait(15)
    assert time.monotonic() - began < 8.0
    with pytest.raises(AssertionError):
        assert request.result().status_code == 200


@pytest.mark.parametrize(
    ("flags", "environment", "words"),
    [
        (("--config", "no/such.toml"), {}, "no/such.toml"),
        ((), {"log_level": "loud"}, "MILLRACE_LOG_LEVEL"),
    ],
)
def test_wrong_settings_end_it_with_a_sentence(
    tmp_path: Path, flags: tuple[str, ...], environment: dict[str, str], words: str
) -> None:
    served = Served(tmp_path, *flags, **environment)
    try:
        assert served.wait(30) == 2
        assert words in served.output
        assert "Traceback" not in served.output
    finally:
        served.close()


def test_a_port_that_is_taken(serve: Serve, tmp_path: Path) -> None:
    add_echo(tmp_path, "echo")
    served = serve(tmp_path)
    port = served.url.rpartition(":")[2]
    other = Served(tmp_path, "--port", port)
    try:
        assert other.wait(30) != 0
        assert "address already in use" in other.output
    finally:
        other.close()


def test_json_logs_and_the_access_log(serve: Serve, tmp_path: Path) -> None:
    add_echo(tmp_path, "echo")
    served = serve(tmp_path, "--log-format", "json", "--access-log")
    httpx.post(f"{served.url}/predict", json=ITEM, headers={"X-Request-Id": "seen"})
    served.terminate()
    assert served.wait(15) == 0
    lines = [json.loads(line) for line in served.output.splitlines() if line.startswith("{")]
    [access] = [line for line in lines if line.get("request_id") == "seen"]
    assert (access["path"], access["status"], access["model"]) == ("/predict", 200, "echo")
