"""Real processes and real signals."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import subprocess
import threading
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
WAIT_S = 200.0  # of a busy machine


def waiting(seconds: float) -> str:
    return f"[batching]\nmax_queue_delay_us = {int(seconds * 1e6)}\n"


def metrics_of(url: str) -> str:
    return httpx.get(f"{url}/metrics", timeout=200.0).text


class Background:
    """One request in a thread."""

    def __init__(self, url: str) -> None:
        self.answer: httpx.Response | None = None
        self._thread = threading.Thread(target=self._send, args=(url,))
        self._thread.start()
        # It is in the queue, where it then waits for seconds.
        wait_until(lambda: re.search(r"queue_depth\S* 1(\.0)?$", metrics_of(url), re.MULTILINE))

    def _send(self, url: str) -> None:
        with contextlib.suppress(httpx.TransportError):  # of a server that ends at once
            self.answer = httpx.post(f"{url}/predict", json=ITEM, timeout=200.0)

    def result(self) -> httpx.Response:
        self._thread.join(200.0)
        assert self.answer is not None
        return self.answer


def test_the_printed_line_works_and_sigterm_ends_it(serve: Serve, tmp_path: Path) -> None:
    folder = add_digits(tmp_path, "1")
    (folder / "samples").mkdir()
    from PIL import Image

    Image.new("L", (28, 28), 90).save(folder / "samples" / "seven.png")
    served = serve(tmp_path)
    line = served.read_until(r"Ready\. Try:\s+(curl .*)\n").group(1)
    out = subprocess.run(["bash", "-c", line], capture_output=True, check=True, timeout=200.0)
    assert json.loads(out.stdout)["results"][0]["predictions"]
    served.terminate()
    assert served.wait(WAIT_S) == 0, served.output
    assert "Traceback" not in served.output


def test_readiness_turns_503_while_the_server_still_answers(serve: Serve, tmp_path: Path) -> None:
    add_echo(tmp_path, "echo")
    served = serve(tmp_path, shutdown_delay_s="300")
    with httpx.Client(base_url=served.url, timeout=200.0) as client:
        served.terminate()
        wait_until(lambda: client.get("/v2/health/ready").status_code == 503)
        assert client.post("/predict", json=ITEM).status_code == 200
    served.terminate()
    served.wait(WAIT_S)


def test_the_delay_of_the_shutdown_ends(serve: Serve, tmp_path: Path) -> None:
    add_echo(tmp_path, "echo")
    served = serve(tmp_path, shutdown_delay_s="0.5")
    served.terminate()
    assert served.wait(WAIT_S) == 0


def test_requests_in_flight_are_finished(serve: Serve, tmp_path: Path) -> None:
    add_echo(tmp_path, "late", waiting(8.0))
    served = serve(tmp_path)
    request = Background(served.url)
    served.terminate()
    assert request.result().status_code == 200, request.result().text
    assert served.wait(WAIT_S) == 0
    with pytest.raises(httpx.ConnectError):
        httpx.get(served.url)


def test_the_drain_is_bounded(serve: Serve, tmp_path: Path) -> None:
    add_echo(tmp_path, "late", waiting(10.0))
    served = serve(tmp_path, "--drain-timeout-s", "3")
    request = Background(served.url)
    host, _, port = served.url.removeprefix("http://").partition(":")
    with (
        socket.create_connection((host, int(port))) as stuck,
        socket.create_connection((host, int(port))) as silent,
    ):
        stuck.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n{")
        silent.sendall(b"GET")
        served.terminate()
        status = served.wait(WAIT_S)
    assert status == 0, served.output
    answer: Any = request.result()
    assert (answer.status_code, answer.json()["code"]) == (503, "draining")
    assert "Traceback" not in served.output, served.output


def test_a_second_signal_does_not_wait(serve: Serve, tmp_path: Path) -> None:
    add_echo(tmp_path, "echo")
    served = serve(tmp_path, "--drain-timeout-s", "300", body_timeout_s="300")
    host, _, port = served.url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port))) as stuck:
        stuck.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n")
        stuck.sendall(b"Content-Length: 99\r\n\r\n")
        assert stuck.recv(1000).startswith(b"HTTP/1.1 100")  # it is in flight
        served.terminate()
        served.read_until("draining")
        served.terminate()
        served.wait(WAIT_S)  # far less than what it would have to wait for


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
        assert served.wait(WAIT_S) == 2
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
        assert other.wait(WAIT_S) != 0
        assert "address already in use" in other.output
    finally:
        other.close()


def test_json_logs_and_the_access_log(serve: Serve, tmp_path: Path) -> None:
    add_echo(tmp_path, "echo")
    served = serve(tmp_path, "--log-format", "json", "--access-log")
    httpx.post(f"{served.url}/predict", json=ITEM, headers={"X-Request-Id": "seen"}, timeout=200.0)
    served.terminate()
    assert served.wait(WAIT_S) == 0
    lines = [json.loads(line) for line in served.output.splitlines() if line.startswith("{")]
    [access] = [line for line in lines if line.get("request_id") == "seen"]
    assert (access["path"], access["status"], access["model"]) == ("/predict", 200, "echo")
