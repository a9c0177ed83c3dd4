"""`millrace predict`: send one file or text to a server."""

from __future__ import annotations

import json
import mimetypes
from pathlib import Path
from typing import Annotated
from urllib.parse import urlencode

import typer

from server.commands.common import DEFAULT_SERVER, call, console, fail

# What ends so and is not there is a slip of the pen, not a text to be translated.
FILE_ENDINGS = frozenset(
    (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".json", ".txt")
)


def predict(
    model: Annotated[str, typer.Argument(help="The model's name.")],
    item: Annotated[str, typer.Argument(help="A picture, a .json request, or a text.")],
    version: Annotated[str | None, typer.Option(help="Default: what the server serves.")] = None,
    option: Annotated[
        list[str] | None, typer.Option("--option", "-o", help="A parameter: top_k=5.")
    ] = None,
    server: Annotated[str, typer.Option(help="The server's address.")] = DEFAULT_SERVER,
) -> None:
    """Predict for one picture, JSON request or text, and print the answer as JSON."""
    query = {"model": model}
    if version is not None:
        query["version"] = version
    for pair in option or ():
        name, equals, value = pair.partition("=")
        if not equals or not name:
            fail(f"an option is name=value, got {pair!r}", 2)
        query[name] = value
    body, content_type = read_item(item)
    target = f"/predict?{urlencode(query)}"
    answer = call(server, "POST", target, body, headers={"Content-Type": content_type})
    console.print_json(json.dumps(answer))


def read_item(item: str) -> tuple[bytes, str]:
    """Return what to send for a file's name or a text, and its content type."""
    path = Path(item)
    try:
        is_file = path.is_file()
    except (OSError, ValueError):  # too long, or with characters that no file name has
        is_file = False
    if not is_file and path.suffix.lower() in FILE_ENDINGS and " " not in item:
        fail(f"there is no file {item}", 2)
    if not is_file:
        return item.encode(), "text/plain; charset=utf-8"
    guessed = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    return path.read_bytes(), guessed
