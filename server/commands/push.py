"""`millrace push`: publish a version, into a folder or to a running server."""

from __future__ import annotations

import contextlib
import tarfile
import threading
from collections.abc import Generator, Iterator, Mapping
from pathlib import Path
from queue import Empty, Queue
from typing import Annotated
from urllib.parse import quote

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TransferSpeedColumn

from server.commands.common import call, console, errors, fail, settings_from, told
from server.repository.loader import external_data_files
from server.repository.publish import is_archive, publish_path

CHUNK_BYTES = 1 << 20
CHUNKS_AHEAD = 4


def push(
    path: Annotated[
        Path,
        typer.Argument(help="A .onnx file, a version's folder, a tar or zip."),
    ],
    name: Annotated[str, typer.Option(help="The model's name.")],
    version: Annotated[str | None, typer.Option(help="Default: the next number.")] = None,
    repository: Annotated[Path | None, typer.Option(help="Folder to publish into.")] = None,
    server: Annotated[str | None, typer.Option(help="Server to publish to.")] = None,
    token: Annotated[str | None, typer.Option(help="Admin token of the server.")] = None,
) -> None:
    """Publish a new version of a model, at once and whole."""
    if not path.exists():
        fail(f"there is no file or folder {path}", 2)
    if server is not None and repository is not None:
        fail("give --server or --repository, not both", 2)
    if server is not None:
        _push_to_server(path, name, version, server, token)
        return
    settings = settings_from(repository=repository)
    limit, beside = settings.max_upload_bytes, weights_beside(path)
    with told():
        published = publish_path(settings.repository, name, version, path, limit, beside=beside)
    console.print(f"{name} version {published.version} is in {settings.repository}")


def _push_to_server(
    path: Path, name: str, version: str | None, server: str, token: str | None
) -> None:
    target = f"/models/{quote(name, safe='')}/versions"
    if version is not None:
        target += f"/{quote(version, safe='')}"
    parts = _parts_of(path)
    total = sum(file.stat().st_size for part in parts.values() for file in _files(part))
    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress("{task.description}", *columns, console=errors, transient=True) as progress:
        task = progress.add_task(f"pushing {path.name}", total=total)

        def body() -> Iterator[bytes]:
            for chunk in file_chunks(path) if parts == {path.name: path} else tar_of(parts):
                progress.advance(task, len(chunk))
                yield chunk
            progress.update(task, description="loading", total=None)

        method = "POST" if version is None else "PUT"
        answer = call(server, method, target, body(), token=token)
    console.print(f"{name} version {answer['version']} is served by {server}", highlight=False)


def weights_beside(path: Path) -> tuple[str, ...]:
    """Return the files that the weights of a model file lie in, or end the command if one is
    missing. PyTorch's exporter writes every model as two files.
    """
    if not path.is_file() or is_archive(path):
        return ()
    with told():
        found = external_data_files(path)
    for name in found:
        if not (path.parent / name).is_file():
            fail(f"the weights of {path.name} lie in {name}, which is not in {path.parent}", 2)
    return found


def _parts_of(path: Path) -> dict[str, Path]:
    """Return what a version is made of, files and folders, by their names in it."""
    if path.is_dir():
        return {part.name: part for part in path.iterdir() if not part.name.startswith(".")}
    return {name: path.parent / name for name in (path.name, *weights_beside(path))}


def _files(path: Path) -> list[Path]:
    return [path] if path.is_file() else [each for each in path.rglob("*") if each.is_file()]


def file_chunks(path: Path) -> Iterator[bytes]:
    """Yield a file piece by piece."""
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk


class _Pipe:
    """A file to write to in one thread, read as chunks in another."""

    def __init__(self) -> None:
        self.chunks: Queue[bytes | BaseException | None] = Queue(CHUNKS_AHEAD)
        self.closed = False  # nobody reads any more

    def write(self, data: bytes) -> int:
        if self.closed:
            raise BrokenPipeError("the rest of the folder is not wanted")
        self.chunks.put(bytes(data))
        return len(data)

    def close(self) -> None:
        """Let the writer go, which may wait for room."""
        self.closed = True
        with contextlib.suppress(Empty):
            while True:
                self.chunks.get_nowait()


def tar_chunks(folder: Path) -> Generator[bytes]:
    """Yield a folder as a tar stream, without a temporary file; links as what they lead to."""
    return tar_of(_parts_of(folder))


def tar_of(parts: Mapping[str, Path]) -> Generator[bytes]:
    """Yield files and folders, under the names given, as `tar_chunks` does."""
    pipe = _Pipe()

    def pack() -> None:
        try:
            with tarfile.open(  # type: ignore[call-overload]
                fileobj=pipe, mode="w|", bufsize=CHUNK_BYTES, dereference=True
            ) as archive:
                for name, path in sorted(parts.items()):
                    archive.add(path, name)
            pipe.chunks.put(None)
        except BaseException as error:  # handed to the reader, which raises it
            pipe.chunks.put(error)

    threading.Thread(target=pack, name="millrace-pack", daemon=True).start()
    try:
        while (chunk := pipe.chunks.get()) is not None:
            if isinstance(chunk, BaseException):
                raise chunk
            yield chunk
    finally:
        pipe.close()
