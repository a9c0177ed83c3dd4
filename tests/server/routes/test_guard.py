from __future__ import annotations

import pytest

from server.errors import Forbidden, Unauthorized
from server.routes.guard import is_loopback, require_admin
from server.settings import Settings

HERE = ("127.0.0.1", 1)


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("[::1]", True),
        ("::ffff:127.0.0.1", True),
        ("LOCALHOST", True),
        ("10.0.0.1", False),
        ("::ffff:10.0.0.1", False),
        ("127.0.0.1.evil.example", False),
        ("", False),
    ],
)
def test_loopback(host: str, local: bool) -> None:
    assert is_loopback(host) is local


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {b"host": b"localhost:8000"},
        {b"host": b"[::1]:8000"},
        {b"host": b"127.0.0.1:8000", b"origin": b"http://127.0.0.1:8000"},
    ],
)
def test_this_machine_may(headers: dict[bytes, bytes]) -> None:
    require_admin(HERE, headers, Settings())


@pytest.mark.parametrize(
    ("client", "headers"),
    [
        (None, {}),
        (("192.0.2.7", 1), {}),
        (HERE, {b"x-real-ip": b"192.0.2.7"}),
        (HERE, {b"host": b"rebound.example"}),
        (HERE, {b"host": b"[broken"}),
        (HERE, {b"host": b"localhost", b"origin": b"http://[broken"}),
        (HERE, {b"host": b"localhost:8000", b"origin": b"http://localhost:9000"}),
    ],
)
def test_others_may_not(client: tuple[str, int] | None, headers: dict[bytes, bytes]) -> None:
    with pytest.raises(Forbidden):
        require_admin(client, headers, Settings())


def test_with_a_token_only_the_token_counts() -> None:
    settings = Settings(admin_token="täglich")
    require_admin(("192.0.2.7", 1), {b"authorization": "Bearer täglich".encode()}, settings)
    for given in (b"", b"Bearer", b"Bearer t", b"Basic x", "täglich".encode()):
        with pytest.raises(Unauthorized):
            require_admin(HERE, {b"authorization": given}, settings)
