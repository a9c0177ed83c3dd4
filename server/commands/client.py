"""A connection to a running server that is kept open, for commands that send many requests."""

from __future__ import annotations

import http.client
import json
import os
import time
from typing import Any
from urllib.parse import urlsplit

from server.commands.common import DEFAULT_SERVER, TIMEOUT_S, fail
from server.commands.exchange import exchange

ATTEMPTS = 5
WAIT_S = 0.5  # after the first failed attempt; doubled after each
_KINDS = {"http": http.client.HTTPConnection, "https": http.client.HTTPSConnection}


class Unreachable(Exception):
    """The server did not answer, although asked several times."""


class Client:
    """One connection; to be used by one thread at a time."""

    def __init__(self, server: str, token: str | None = None) -> None:
        """Name the server; nothing is sent yet."""
        url = urlsplit(server if "//" in server else f"http://{server}")
        if url.scheme not in _KINDS or not url.hostname:
            fail(f"{server!r} is not a server's address; expected one like {DEFAULT_SERVER}", 2)
        self._server = server
        self._path = url.path.rstrip("/")
        self._connection = _KINDS[url.scheme](url.hostname, url.port, timeout=TIMEOUT_S)
        token = token or os.environ.get("MILLRACE_ADMIN_TOKEN")
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}

    def send(
        self, method: str, path: str, body: bytes | None = None, content_type: str | None = None
    ) -> tuple[int, Any]:
        """Return the status and the JSON of an answer; a server that is busy is asked again.

        Raises:
            Unreachable: it does not answer, or with something else than JSON.
        """
        headers = dict(self._headers)
        if content_type is not None:
            headers["Content-Type"] = content_type
        wait_s, why = WAIT_S, ""
        for attempt in range(ATTEMPTS):
            if attempt:
                time.sleep(wait_s)
                wait_s *= 2
            try:
                response = exchange(self._connection, method, self._path + path, body, headers)
                status, data = response.status, response.read()
            except (OSError, http.client.HTTPException) as error:
                self._connection.close()  # the next attempt opens another one
                why = str(error) or type(error).__name__
                continue
            if status not in (429, 503):
                return status, self._content(status, data)
            why = f"it answers {status}"
            wait_s = max(wait_s, _retry_after(response.headers))
        raise Unreachable(f"{self._server} does not answer: {why}")

    def close(self) -> None:
        """Hang up."""
        self._connection.close()

    def _content(self, status: int, data: bytes) -> Any:
        try:
            return json.loads(data)
        except ValueError:
            raise Unreachable(
                f"{self._server} answered {status} with something that is not JSON; "
                "is it a Millrace?"
            ) from None


def _retry_after(headers: http.client.HTTPMessage) -> float:
    given = headers.get("Retry-After", "0")
    return min(float(given), 30.0) if given.isdigit() else 0.0
