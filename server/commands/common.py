"""What the commands share: the console, errors for people, and calls to a running server."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NoReturn
from urllib.parse import urlsplit

import typer
from rich.console import Console

from server.commands.exchange import Body, BodyFailed, exchange
from server.errors import ServerError
from server.settings import Settings, SettingsInvalid, load_settings

DEFAULT_SERVER = "http://127.0.0.1:8000"
POLL_S = 0.05
LINES = "application/x-ndjson"
TIMEOUT_S = 600.0  # a push waits for the version to be loaded

console = Console()
errors = Console(stderr=True)


def fail(message: str, status: int = 1) -> NoReturn:
    """End the command with a message."""
    errors.print(f"[red]error:[/red] {_plain(message)}", highlight=False)
    raise typer.Exit(status)


def _plain(message: str) -> str:
    return message.replace("[", r"\[")


def settings_from(**flags: Any) -> Settings:
    """Return the settings, or end the command with what is wrong with them."""
    try:
        return load_settings(**flags)
    except SettingsInvalid as error:
        fail(str(error), 2)


@contextmanager
def told() -> Iterator[None]:
    """Turn the server's errors into the command's."""
    try:
        yield
    except ServerError as error:
        fail(error.message)


def call(
    server: str,
    method: str,
    path: str,
    body: Body | None = None,
    *,
    headers: Mapping[str, str] | None = None,
    token: str | None = None,
) -> Any:
    """Call a running server and return its JSON, or end the command with its error."""
    with _asked(server, method, path, body, headers or {}, token) as response:
        status, data = response.status, response.read()
    return _content(server, status, data)


def call_lines(
    server: str,
    method: str,
    path: str,
    body: Body | None = None,
    *,
    headers: Mapping[str, str] | None = None,
    token: str | None = None,
) -> Iterator[dict[str, Any]]:
    """Call a running server and yield its answer's lines of JSON as they come.

    Errors end the command, those within the stream as well.
    """
    wanted = {"Accept": LINES, **(headers or {})}
    with _asked(server, method, path, body, wanted, token) as response:
        if response.status >= 400 or LINES not in (response.headers.get("Content-Type") or ""):
            _content(server, response.status, response.read())
            fail(f"{server} does not answer line by line; is it an older one?")
        for line in response:
            try:
                told = json.loads(line)
            except ValueError:
                fail(f"{server} ended its answer in the middle of a line")
            if told.get("event") == "error":
                fail(str(told.get("error")))
            yield told


@contextmanager
def _asked(
    server: str,
    method: str,
    path: str,
    body: Body | None,
    headers: Mapping[str, str],
    token: str | None,
) -> Iterator[http.client.HTTPResponse]:
    """Send a request and give its answer; what goes wrong on the way ends the command."""
    url = urlsplit(server if "//" in server else f"http://{server}")
    kinds = {"http": http.client.HTTPConnection, "https": http.client.HTTPSConnection}
    if url.scheme not in kinds or not url.hostname:
        fail(f"{server!r} is not a server's address; expected one like {DEFAULT_SERVER}", 2)
    sent = dict(headers)
    token = token or os.environ.get("MILLRACE_ADMIN_TOKEN")
    if token:
        sent["Authorization"] = f"Bearer {token}"
    try:
        connection = kinds[url.scheme](url.hostname, url.port, timeout=TIMEOUT_S)
        try:
            yield exchange(connection, method, url.path.rstrip("/") + path, body, sent)
        finally:
            connection.close()
    except BodyFailed as error:
        fail(f"what was to be sent cannot be read: {error}")
    except (OSError, http.client.HTTPException) as error:
        fail(f"{server} does not answer: {error or type(error).__name__}")


def _content(server: str, status: int, data: bytes) -> Any:
    try:
        content = json.loads(data)
    except ValueError:
        fail(f"{server} answered {status} with something that is not JSON; is it a Millrace?")
    if status >= 400:
        fail(f"{content.get('error', content)} ({status})")
    return content


def is_interactive() -> bool:
    """Say whether a person is watching."""
    return sys.stderr.isatty()


async def until_ready(is_ready: Callable[[], bool]) -> None:
    """Wait until every model has been loaded or has failed."""
    # Readiness has no event: it ends with the settling of files, which is a time, too.
    while not is_ready():  # noqa: ASYNC110
        await asyncio.sleep(POLL_S)
