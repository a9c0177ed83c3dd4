"""`millrace index`: put a folder of pictures into a collection."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote, urlencode

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

from server.commands.client import Client, Unreachable
from server.commands.common import DEFAULT_SERVER, console, errors, fail

PICTURES = frozenset(
    {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".avif"}
)
BATCH_ITEMS = 64
BATCH_BYTES = 4 << 20
PAGE = 1000
SHOWN_FAILURES = 50


@dataclass(frozen=True, slots=True)
class Found:
    """One file: its id is its path below the folder."""

    id: str
    path: Path
    size: int


Item = tuple[Found, bytes, dict[str, Any]]  # a file, its content and metadata


@dataclass(slots=True)
class Outcome:
    """What became of the files."""

    added: int = 0
    replaced: int = 0
    skipped: int = 0  # there already, with the same content
    failures: list[tuple[str, str]] = field(default_factory=list)

    def take(self, answer: Mapping[str, Any]) -> None:
        """Count what the server says of one request."""
        self.added += answer.get("added", 0)
        self.replaced += answer.get("replaced", 0)
        for error in answer.get("errors", ()):
            self.failures.append((error["id"], error["error"]))


def index(
    folder: Annotated[Path, typer.Argument(help="A folder of pictures, or one picture.")],
    collection: Annotated[str, typer.Option(help="Made if it is not there.")],
    model: Annotated[
        str | None, typer.Option(help="That embeds a new collection; default: the server's choice.")
    ] = None,
    metric: Annotated[str, typer.Option(help="Of a new one: cosine, dot or l2.")] = "cosine",
    concurrency: Annotated[int, typer.Option(min=1, max=64, help="Requests at a time.")] = 4,
    server: Annotated[str, typer.Option(help="The server's address.")] = DEFAULT_SERVER,
    token: Annotated[str | None, typer.Option(help="Admin token of the server.")] = None,
) -> None:
    """Put every picture below a folder into a collection.

    Ids are paths below the folder. What is there already with the same content is skipped, so an
    interrupted run is simply started again.
    """
    if not folder.exists():
        fail(f"there is no file or folder {folder}", 2)
    found, other = find_pictures(folder)
    client = Client(server, token)
    try:
        _ensure(client, collection, model, metric)
        known = dict(_known_items(client, collection))
        outcome = _send_all(found, known, collection, concurrency, lambda: Client(server, token))
    except Unreachable as error:
        fail(f"{error}; start the command again to go on")
    except KeyboardInterrupt:
        fail("interrupted; start the command again to go on", 130)
    finally:
        client.close()
    _report(collection, outcome, other)


def find_pictures(folder: Path) -> tuple[list[Found], int]:
    """Return the pictures below a folder in order, and how many other files there are."""
    if folder.is_file():
        return [Found(folder.name, folder, folder.stat().st_size)], 0
    found, other = [], 0
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if any(part.startswith(".") for part in name.parts) or not path.is_file():
            continue
        if path.suffix.lower() in PICTURES:
            found.append(Found(name.as_posix(), path, path.stat().st_size))
        else:
            other += 1
    return found, other


def _ensure(client: Client, collection: str, model: str | None, metric: str) -> None:
    status, answer = client.send("GET", _path(collection))
    if status == 404:
        wanted = {"name": collection, "metric": metric}
        body = json.dumps(wanted if model is None else wanted | {"model": model}).encode()
        status, answer = client.send("POST", "/collections", body, "application/json")
    if status >= 400:
        fail(f"{answer.get('error', answer)} ({status})")
    if model is not None and answer["model"] != model:
        fail(f"collection {collection} has model {answer['model']}, not {model}", 2)


def _known_items(client: Client, collection: str) -> Iterator[tuple[str, str | None]]:
    """Yield the ids that are there, and the hash of the content that each came with."""
    after: str | None = None
    while True:
        query = {"limit": str(PAGE)} | ({"after": after} if after is not None else {})
        status, answer = client.send("GET", f"{_path(collection)}/items?{urlencode(query)}")
        if status >= 400:
            fail(f"{answer.get('error', answer)} ({status})")
        for item in answer["items"]:
            yield item["id"], item["metadata"].get("sha256")
        after = answer["next"]
        if after is None:
            return


def _send_all(
    found: list[Found],
    known: Mapping[str, str | None],
    collection: str,
    concurrency: int,
    connect: Callable[[], Client],
) -> Outcome:
    outcome, lock, local = Outcome(), threading.Lock(), threading.local()
    clients: list[Client] = []
    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with (
        Progress("{task.description}", *columns, console=errors, transient=True) as progress,
        ThreadPoolExecutor(concurrency) as threads,
    ):
        task = progress.add_task(f"indexing into {collection}", total=len(found))

        def send(files: list[Found]) -> None:
            if not hasattr(local, "client"):
                local.client = connect()
                clients.append(local.client)
            told = _send(local.client, collection, files, known)
            with lock:
                outcome.added += told.added
                outcome.replaced += told.replaced
                outcome.skipped += told.skipped
                outcome.failures += told.failures
            progress.advance(task, len(files))

        running: set[Future[None]] = set()
        try:
            for files in batches(found):
                running.add(threads.submit(send, files))
                if len(running) >= 2 * concurrency:  # or the whole folder would be read ahead
                    running = _settled(running)
            while running:
                running = _settled(running)
        finally:
            threads.shutdown(cancel_futures=True)
            for client in clients:
                client.close()
    return outcome


def _settled(running: set[Future[None]]) -> set[Future[None]]:
    done, left = wait(running, return_when=FIRST_COMPLETED)
    for each in done:
        each.result()
    return left


def batches(found: Iterable[Found]) -> Iterator[list[Found]]:
    """Cut files into requests; a large one goes alone."""
    batch: list[Found] = []
    held = 0
    for each in found:
        if batch and (len(batch) >= BATCH_ITEMS or held + each.size > BATCH_BYTES):
            yield batch
            batch, held = [], 0
        batch.append(each)
        held += each.size
    if batch:
        yield batch


def _send(
    client: Client, collection: str, files: list[Found], known: Mapping[str, str | None]
) -> Outcome:
    """Send what is new of a few files."""
    outcome = Outcome()
    items: list[Item] = []
    for each in files:
        try:
            data = each.path.read_bytes()
        except OSError as error:
            outcome.failures.append((each.id, error.strerror or str(error)))
            continue
        digest = hashlib.sha256(data).hexdigest()
        if known.get(each.id) == digest:
            outcome.skipped += 1
            continue
        folder = each.id.rpartition("/")[0]
        metadata = {"bytes": len(data), "sha256": digest} | ({"folder": folder} if folder else {})
        items.append((each, data, metadata))
    _post(client, collection, items, outcome)
    return outcome


def _post(client: Client, collection: str, items: Sequence[Item], outcome: Outcome) -> None:
    """Send files in one request, or in more where the server takes less at a time."""
    if not items:
        return
    target = f"{_path(collection)}/items"
    if len(items) == 1:
        each, data, metadata = items[0]
        query = urlencode({"id": each.id, "metadata": json.dumps(metadata)})
        status, answer = client.send("POST", f"{target}?{query}", data, "image/*")
    else:
        body = json.dumps({"items": [_item(*item) for item in items]}).encode()
        status, answer = client.send("POST", target, body, "application/json")
    if status == 413 and len(items) > 1 and "errors" not in answer:
        half = len(items) // 2
        _post(client, collection, items[:half], outcome)
        _post(client, collection, items[half:], outcome)
        return
    if status in (401, 403, 404) and "errors" not in answer:
        raise Unreachable(f"{answer.get('error', answer)} ({status})")
    if status >= 400 and "errors" not in answer:
        outcome.failures += [(each.id, answer.get("error", str(status))) for each, _, _ in items]
    outcome.take(answer)


def _item(each: Found, data: bytes, metadata: dict[str, Any]) -> dict[str, Any]:
    image = {"b64": base64.b64encode(data).decode()}
    return {"id": each.id, "image": image, "metadata": metadata}


def _path(collection: str) -> str:
    return f"/collections/{quote(collection, safe='')}"


def _report(collection: str, outcome: Outcome, other: int) -> None:
    parts = [f"{outcome.added} added", f"{outcome.replaced} replaced"]
    parts += [f"{outcome.skipped} there already"] if outcome.skipped else []
    parts += [f"{other} other files left out"] if other else []
    console.print(f"{collection}: {', '.join(parts)}", highlight=False)
    if not outcome.failures:
        return
    for id, reason in sorted(outcome.failures)[:SHOWN_FAILURES]:
        errors.print(f"{id}: {reason}", highlight=False, markup=False)
    left = len(outcome.failures) - SHOWN_FAILURES
    if left > 0:
        errors.print(f"... and {left} more", highlight=False)
    fail(f"{len(outcome.failures)} of the pictures could not be indexed")
