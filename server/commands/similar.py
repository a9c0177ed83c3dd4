"""`millrace similar`: what looks like a picture?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlencode

import typer
from rich.table import Table

from server.commands.common import DEFAULT_SERVER, call, console, fail

_OWN = ("bytes", "sha256")  # metadata that `millrace index` adds for itself


def similar(
    item: Annotated[str, typer.Argument(help="A picture, or the id of an item (with --id).")],
    collection: Annotated[
        str | None, typer.Option(help="May be left out when there is one.")
    ] = None,
    k: Annotated[int, typer.Option("-k", min=1, help="How many answers.")] = 10,
    by_id: Annotated[bool, typer.Option("--id", help="ITEM is an item of the collection.")] = False,
    filter: Annotated[str | None, typer.Option(help="On metadata, as JSON.")] = None,
    min_score: Annotated[float | None, typer.Option(help="Leave out what is less alike.")] = None,
    exact: Annotated[bool, typer.Option(help="Compare with every item.")] = False,
    version: Annotated[str | None, typer.Option(help="Of the model.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the answer as it came.")] = False,
    server: Annotated[str, typer.Option(help="The server's address.")] = DEFAULT_SERVER,
) -> None:
    """List the items of a collection that are nearest to a picture or to an item."""
    options: dict[str, Any] = {
        "collection": collection,
        "k": k,
        "filter": filter,
        "min_score": min_score,
        "exact": "true" if exact else None,
        "version": version,
    }
    query = {name: value for name, value in options.items() if value is not None}
    body = b""
    headers = {"Content-Type": "application/json"}
    if by_id:
        query["id"] = item
    else:
        path = Path(item)
        if not path.is_file():
            fail(f"there is no file {item}; to search by an item's id, add --id", 2)
        body, headers = path.read_bytes(), {"Content-Type": "image/*"}
    answer = call(server, "POST", f"/similar?{urlencode(query)}", body, headers=headers)
    if as_json:
        console.print_json(json.dumps(answer))
        return
    console.print(table_of(answer["results"][0]["hits"]))


def table_of(hits: list[dict[str, Any]]) -> Table:
    """Return hits as a table, nearest first."""
    table = Table("", "score", "id", "metadata", box=None)
    for place, hit in enumerate(hits, 1):
        metadata = {name: value for name, value in hit["metadata"].items() if name not in _OWN}
        shown = json.dumps(metadata, ensure_ascii=False) if metadata else ""
        table.add_row(str(place), f"{hit['score']:.4f}", _plain(hit["id"]), _plain(shown))
    return table


def _plain(text: str) -> str:
    return text.replace("[", r"\[")
