"""`millrace load | unload | promote | rollback | label | delete`: versions, moved by hand."""

from __future__ import annotations

import json
from typing import Annotated, Any
from urllib.parse import quote

import typer

from server.commands.common import DEFAULT_SERVER, call, console

Name = Annotated[str, typer.Argument(help="The model's name.")]
Version = Annotated[str, typer.Argument(help="One of its versions.")]
AnyVersion = Annotated[
    str | None, typer.Argument(help="One of its versions; default: what its policy says.")
]
Server = Annotated[str, typer.Option(help="The server's address.")]
Token = Annotated[str | None, typer.Option(help="Admin token of the server.")]


def load(
    model: Name,
    version: AnyVersion = None,
    server: Server = DEFAULT_SERVER,
    token: Token = None,
) -> None:
    """Load a model, or one more version of it; ends when it serves."""
    _tell(_ask(server, token, "POST", f"{_path(model)}/load", _naming(version)))


def unload(
    model: Name,
    version: AnyVersion = None,
    server: Server = DEFAULT_SERVER,
    token: Token = None,
) -> None:
    """Unload a model or a version, until it is loaded again."""
    _tell(_ask(server, token, "POST", f"{_path(model)}/unload", _naming(version)))


def promote(
    model: Name, version: Version, server: Server = DEFAULT_SERVER, token: Token = None
) -> None:
    """Let a version serve the requests that name none."""
    _tell(_ask(server, token, "POST", f"{_path(model)}/promote", _naming(version)))


def rollback(model: Name, server: Server = DEFAULT_SERVER, token: Token = None) -> None:
    """Go back to the version before."""
    _tell(_ask(server, token, "POST", f"{_path(model)}/rollback"))


def label(
    model: Name,
    label: Annotated[str, typer.Argument(help="A name for a version, such as stable.")],
    version: Annotated[
        str | None, typer.Argument(help="Where it points to; left out: the label is removed.")
    ] = None,
    server: Server = DEFAULT_SERVER,
    token: Token = None,
) -> None:
    """Point a label to a version, or remove it."""
    method = "DELETE" if version is None else "PUT"
    target = f"{_path(model)}/labels/{quote(label, safe='')}"
    _tell(_ask(server, token, method, target, _naming(version)))


def delete(
    model: Name, version: Version, server: Server = DEFAULT_SERVER, token: Token = None
) -> None:
    """Unload a version and remove its files."""
    _ask(server, token, "DELETE", f"{_path(model)}/versions/{quote(version, safe='')}")
    console.print(f"{model} version {version} is deleted", highlight=False)


def _path(model: str) -> str:
    return f"/models/{quote(model, safe='')}"


def _naming(version: str | None) -> dict[str, str]:
    return {} if version is None else {"version": version}


def _ask(
    server: str, token: str | None, method: str, path: str, body: dict[str, str] | None = None
) -> Any:
    sent = json.dumps(body).encode() if body else None
    headers = {"Content-Type": "application/json"} if sent else {}
    return call(server, method, path, sent, headers=headers, token=token)


def _tell(status: dict[str, Any]) -> None:
    """Say what a model serves now."""
    ready = [each["version"] for each in status["versions"] if each["state"] == "READY"]
    words = [f"{status['name']} serves version {status['default'] or 'none'}"]
    if len(ready) > 1:
        words.append(f"loaded are {', '.join(ready)}")
    if status["labels"]:
        words.append(", ".join(f"{name} is {to}" for name, to in sorted(status["labels"].items())))
    console.print("; ".join(words), highlight=False)
