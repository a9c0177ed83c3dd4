"""`millrace learn`: a classifier from a folder of pictures, with a folder per class."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote, urlencode

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress
from rich.table import Table
from rich.text import Text

from server.commands.common import DEFAULT_SERVER, call_lines, console, errors, fail
from server.commands.push import file_chunks, tar_chunks

USUAL_BASE = "objects"
SHOWN = 10
_SAID = {
    "waiting": "waiting for another lesson",
    "embedding": "looking at the pictures",
    "fitting": "learning",
    "publishing": "writing the version",
    "loading": "loading it",
}


def learn(
    pictures: Annotated[Path, typer.Argument(help="A folder per class, or a zip or tar of that.")],
    base: Annotated[
        str, typer.Option(help="Model to learn on, or a learned one to add pictures to.")
    ] = USUAL_BASE,
    name: Annotated[
        str | None, typer.Option(help="Of the new model; not needed when adding.")
    ] = None,
    version: Annotated[str | None, typer.Option(help="Default: the next number.")] = None,
    method: Annotated[str | None, typer.Option(help="logistic or svm.")] = None,
    publish: Annotated[bool, typer.Option(help="Or only tell how well it would do.")] = True,
    keep_pictures: Annotated[bool, typer.Option(help="In the version, to add to later.")] = True,
    skip_unreadable: Annotated[bool, typer.Option(help="Go on without broken pictures.")] = False,
    server: Annotated[str, typer.Option(help="The server's address.")] = DEFAULT_SERVER,
    token: Annotated[str | None, typer.Option(help="Admin token of the server.")] = None,
) -> None:
    """Learn a classifier from a few labelled pictures, and serve it."""
    if not pictures.exists():
        fail(f"there is no file or folder {pictures}", 2)
    options = {"name": name, "version": version, "method": method}
    flags = {
        "publish": publish,
        "keep_pictures": keep_pictures,
        "skip_unreadable": skip_unreadable,
    }
    query = {key: text for key, text in options.items() if text is not None}
    query |= {key: str(flag).lower() for key, flag in flags.items()}
    target = f"/models/{quote(base, safe='')}/heads?{urlencode(query)}"
    with Progress(
        "{task.description}", BarColumn(), MofNCompleteColumn(), console=errors, transient=True
    ) as progress:
        task = progress.add_task("sending", total=None)
        done: Mapping[str, Any] | None = None
        kind = {"Content-Type": "application/octet-stream"}
        body = _body(pictures)
        for told in call_lines(server, "POST", target, body, headers=kind, token=token):
            if told["event"] == "done":
                done = told
            else:
                said = _SAID.get(told["stage"], told["stage"])
                counted = {"completed": told.get("done", 0), "total": told.get("total")}
                progress.update(task, description=said, **counted)
    if done is None:
        fail(f"{server} ended the answer before the result")
    show(done, server)


def _body(pictures: Path) -> Iterator[bytes]:
    return tar_chunks(pictures) if pictures.is_dir() else file_chunks(pictures)


def show(done: Mapping[str, Any], server: str) -> None:
    """Print what was learned, as a table and a few lines."""
    report = done["report"]
    table = Table("class", "pictures", "found", "right when named", box=None)
    for row in report["classes"]:
        precision = row["precision"]
        named = "" if precision is None else f"{precision:.1%}"
        table.add_row(Text(row["label"]), str(row["pictures"]), f"{row['recall']:.1%}", named)
    console.print(table)
    console.print(f"\n{done['summary']}", highlight=False, markup=False)
    for line in _remarks(report):
        console.print(line, highlight=False, markup=False)
    seconds = sum(done["seconds"].values())
    if done["version"] is None:
        console.print(f"nothing was published ({seconds:.1f} s)", highlight=False)
        return
    state = "is served by" if done["loaded"] else "is published, but not the one loaded by"
    console.print(
        f"{done['model']} version {done['version']} {state} {server} ({seconds:.1f} s); "
        f"report: {server}{done['urls']['report']}",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )


def _remarks(report: Mapping[str, Any]) -> Iterator[str]:
    """Yield what the owner of the pictures should look at."""
    if report["confused"]:
        pairs = [f"{' / '.join(each['labels'])} ({each['count']})" for each in report["confused"]]
        yield f"confused: {', '.join(pairs[:5])}"
    for mistake in report["mistakes"][:3]:
        yield (
            f"look at {mistake['picture']}: labelled {mistake['label']}, "
            f"taken for {mistake['taken_for']} ({mistake['score']:.0%} sure)"
        )
    named = {
        "cannot be read and were left out": report.get("unreadable"),
        "came twice": report["duplicates"],
        "are no pictures and were passed over": report.get("ignored"),
        "have another label now": report.get("relabelled"),
    }
    for what, names in named.items():
        if names:
            more = ", ..." if len(names) > SHOWN else ""
            yield f"{len(names)} {what}: {', '.join(names[:SHOWN])}{more}"
    for pair in report.get("near_copies", ())[:3]:
        yield f"nearly the same, in two classes: {' and '.join(pair['pictures'])}"
