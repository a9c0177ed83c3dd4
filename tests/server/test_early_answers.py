"""A server may answer before it has read a body; the answer gets to who is still sending."""

from __future__ import annotations

import http.client
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from server.cli import app
from server.commands import client as client_module
from server.commands import exchange as exchange_module
from server.commands.client import Client, Unreachable
from server.commands.exchange import BodyFailed, exchange
from server.commands.push import tar_chunks
from tests.server.consoles import widen_consoles
from tests.server.running import RunningServer, running_server, wait_until
from tests.server.similarity.nets import add_eyes
from tests.server.small_settings import small_settings

MIB = 1 << 20
WAIT_S = 60.0
LONG = 48  # MiB, much more than sockets hold
REFUSED = b'{"error":"no","code":"forbidden"}'


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    root = tmp_path_factory.mktemp("early")
    add_eyes(root / "models", name="objects")
    settings = small_settings(
        root / "models",
        device="reference",
        admin_token="t0ken",
        max_upload_bytes=MIB,
        collections=str(root / "collections"),
    )
    with running_server(settings) as running, pytest.MonkeyPatch.context() as patch:
        # The client of a test may get no core for longer than a real one is waited for.
        patch.setattr("server.joined_writes.LINGER_S", WAIT_S)
        yield running


def connect(server: RunningServer) -> http.client.HTTPConnection:
    return http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=WAIT_S)


class Body:
    """Many zeros, and how far they were read."""

    def __init__(self, mib: int = LONG) -> None:
        self.mib, self.read, self.closed = mib, 0, False

    def __iter__(self) -> Iterator[bytes]:
        try:
            for _ in range(self.mib):
                self.read += 1
                yield bytes(MIB)
        finally:
            self.closed = True


DOORS = [
    ("POST", "/models/objects/heads?name=x", "t0ken", 413),
    ("POST", "/models/objects/heads?name=x", "wrong", 401),
    ("POST", "/models/nobody/heads?name=x", "t0ken", 404),
    ("POST", "/models/objects/heads?bogus=x", "t0ken", 422),
    ("POST", "/models/new/versions", "t0ken", 413),
    ("PUT", "/models/new/versions/1", "wrong", 401),
    ("PUT", "/models/objects/versions/1", "t0ken", 409),
    ("POST", "/collections/nope/items", "t0ken", 404),
    ("POST", "/predict", "t0ken", 413),
    ("POST", "/no/such/route", "t0ken", 404),
]


@pytest.mark.parametrize("close", [False, True])
@pytest.mark.parametrize(("method", "target", "token", "status"), DOORS)
def test_a_refusal_arrives_while_the_body_is_sent(
    server: RunningServer, method: str, target: str, token: str, status: int, close: bool
) -> None:
    headers = {
        "Authorization": f"Bearer {token}",
        "Content-Type": "application/octet-stream",
        "Connection": "close" if close else "keep-alive",
    }
    body = Body()
    connection = connect(server)
    try:
        response = exchange(connection, method, target, body, headers)
        assert response.status == status
        assert b'"error"' in response.read()
        assert body.closed and body.read < LONG
        # What follows goes over another connection, and is answered.
        assert exchange(connection, "GET", "/v2/health/live", None, {}).status == 200
    finally:
        connection.close()


@pytest.mark.parametrize("close", [False, True])
def test_a_client_that_only_reads_at_the_end_gets_it_too(
    server: RunningServer, close: bool
) -> None:
    """Most clients are such, for bodies of moderate length: the server drains."""
    for _ in range(5):
        connection = connect(server)
        try:
            headers = {"Connection": "close" if close else "keep-alive"}
            connection.request("POST", "/models/new/versions", bytes(12 * MIB), headers)
            assert connection.getresponse().status == 401
        finally:
            connection.close()


def test_a_body_that_is_never_finished_holds_no_connection(
    server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server._server.config, "timeout_keep_alive", 1)
    host, _, port = server.url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=WAIT_S) as connection:
        connection.sendall(b"POST /models/x/versions HTTP/1.1\r\nContent-Length: 999\r\n\r\n")
        assert b" 401 " in connection.recv(65_536)
        connection.sendall(b"something")  # and no more of it
        while connection.recv(65_536):  # until the server hangs up
            pass


# Commands


def run(*arguments: str, status: int) -> str:
    widen_consoles()
    done = CliRunner().invoke(app, [*arguments], env={"COLUMNS": "400"})
    assert done.exit_code == status, done.output + repr(done.exception)
    assert "does not answer" not in done.output
    return str(done.output)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("large") / "large.onnx"
    with path.open("wb") as file:
        file.truncate(24 * MIB)
    return path


def test_push_says_what_the_server_says(server: RunningServer, large: Path, tmp_path: Path) -> None:
    packed = tmp_path / "packed.zip"  # only its first bytes are looked at before it is sent
    with packed.open("wb") as file:
        file.write(b"PK\x03\x04")
        file.truncate(large.stat().st_size)
    common = ("push", str(packed), "--server", server.url)
    assert "needs the admin token" in run(*common, "--name", "x", status=1)
    known = (*common, "--token", "t0ken")
    assert "MAX_UPLOAD_BYTES" in run(*known, "--name", "x", status=1)
    assert "(409)" in run(*known, "--name", "objects", "--version", "1", status=1)


def test_learn_says_what_the_server_says(
    server: RunningServer, large: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "kinds"
    for kind in "ab":
        (folder / kind).mkdir(parents=True)
        (folder / kind / "1.png").symlink_to(large)
    for pictures in (folder, large):
        common = ("learn", str(pictures), "--name", "x", "--server", server.url)
        assert "needs the admin token" in run(*common, status=1)
        known = (*common, "--token", "t0ken")
        assert "MAX_UPLOAD_BYTES" in run(*known, status=1)
        assert "'nobody'" in run(*known, "--base", "nobody", status=1)


def test_index_says_what_the_server_says(
    server: RunningServer, large: Path, tmp_path: Path
) -> None:
    picture = tmp_path / "large.png"
    picture.symlink_to(large)
    common = ("index", str(picture), "--collection", "c", "--server", server.url)
    assert "needs the admin token" in run(*common, status=1)
    assert "MAX_BODY_BYTES" in run(*common, "--token", "t0ken", status=1)


def test_a_file_that_cannot_be_read_is_not_the_servers_fault(
    server: RunningServer, tmp_path: Path
) -> None:
    folder = tmp_path / "version"
    folder.mkdir()
    (folder / "model.onnx").symlink_to(tmp_path / "nowhere")
    common = ("--name", "x", "--server", server.url, "--token", "t0ken")
    told = run("push", str(folder), *common, status=1)
    assert "what was to be sent cannot be read" in told and "model.onnx" in told


# The parts


@pytest.fixture
def rude() -> Iterator[str]:
    """A server that answers at the first bytes and hangs up at once, without reading on."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            while True:
                try:
                    accepted, _ = listening.accept()
                except OSError:
                    return
                with accepted:
                    accepted.recv(1000)
                    head = b"HTTP/1.1 403 No\r\ncontent-length: %d\r\n\r\n" % len(REFUSED)
                    accepted.sendall(head + REFUSED)

        threading.Thread(target=serve, daemon=True).start()
        yield f"127.0.0.1:{listening.getsockname()[1]}"
        listening.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("looks", [True, False])
def test_a_server_that_hangs_up(rude: str, looks: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its answer is read even when it is only noticed by the broken pipe, as below TLS."""
    if not looks:
        monkeypatch.setattr(exchange_module, "_is_answered", lambda _: False)
    for body in (bytes(LONG * MIB), Body()):
        connection = http.client.HTTPConnection(rude, timeout=WAIT_S)
        try:
            response = exchange(connection, "POST", "/", body, {})
            assert (response.status, response.read()) == (403, REFUSED)
        finally:
            connection.close()
    client = Client(f"http://{rude}")
    assert client.send("POST", "/", bytes(LONG * MIB)) == (
        403,
        {"error": "no", "code": "forbidden"},
    )
    client.close()


def test_a_server_that_hangs_up_without_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.commands.client.time.sleep", lambda _: None)
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            for _ in range(client_module.ATTEMPTS):
                accepted, _ = listening.accept()
                accepted.close()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        client = Client(f"http://127.0.0.1:{listening.getsockname()[1]}")
        with pytest.raises(Unreachable, match="does not answer"):
            client.send("POST", "/", bytes(LONG * MIB))
        thread.join(WAIT_S)
        client.close()


def test_a_body_with_an_error_of_its_own(server: RunningServer) -> None:
    def broken() -> Iterator[bytes]:
        yield b"a"
        raise PermissionError(13, "Permission denied", "a.png")

    connection = connect(server)
    headers = {"Authorization": "Bearer t0ken"}
    with pytest.raises(BodyFailed, match=r"a\.png"):
        exchange(connection, "POST", "/models/new/versions", broken(), headers)
    connection.close()


def test_a_folder_that_is_not_wanted_is_not_packed_on(tmp_path: Path, large: Path) -> None:
    (tmp_path / "a").symlink_to(large)
    chunks = tar_chunks(tmp_path)
    next(chunks)
    chunks.close()
    packing = [each for each in threading.enumerate() if each.name == "millrace-pack"]
    wait_until(lambda: not any(each.is_alive() for each in packing))
