"""`millrace models`: what a server serves."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.table import Table

from server.commands.common import DEFAULT_SERVER, call, console

_COLOURS = {"READY": "green", "LOADING": "yellow", "DRAINING": "yellow", "FAILED": "red"}


def models(
    server: Annotated[str, typer.Option(help="The server's address.")] = DEFAULT_SERVER,
) -> None:
    """List a server's models and the state of their versions."""
    console.print(table_of(call(server, "GET", "/models")["models"]))


def table_of(found: list[dict[str, Any]]) -> Table:
    """Return the models as a table, one line per version."""
    table = Table("model", "version", "state", "labels", "task", "note", box=None)
    for model in found:
        for version in model["versions"]:
            state = version["state"]
            colour = _COLOURS.get(state, "dim")
            mark = " *" if version["default"] else ""
            table.add_row(
                model["name"],
                version["version"] + mark,
                f"[{colour}]{state}[/{colour}]",
                ", ".join(version["labels"]),
                model["task"] or "",
                version["reason"] or version["progress"] or "",
            )
    return table
