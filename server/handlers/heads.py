"""Classifiers from a few pictures: learned by the teacher, and the reports of those there are."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from server.errors import (
    InvalidInput,
    NotFound,
    PayloadTooLarge,
    StoreUnavailable,
    VersionNotFound,
)
from server.execution import WorkerPool
from server.learning.examples import MAX_BYTES, Example
from server.learning.orders import Order, Step, Taught
from server.learning.report import summary
from server.learning.sources import is_class, read_folder
from server.learning.teacher import Teacher
from server.learning.version_folder import PICTURE_FILE, REPORT_FILE
from server.repository import archive
from server.repository.background import in_background
from server.repository.registry import Repository
from server.similarity.service import Collections

MAX_REPORT_BYTES: Final = 64 << 20
HEAD_BYTES: Final = 512


class HeadHandler:
    """Learns classifiers, and shows how well they do."""

    def __init__(
        self, repository: Repository, pool: WorkerPool, collections: Collections | None = None
    ) -> None:
        """Keep the teacher and the repository."""
        self._repository = repository
        self._teacher = Teacher(repository, pool, collections)

    def check(self, order: Order) -> None:
        """Refuse an order that cannot be carried out, whatever its pictures are."""
        self._teacher.check(order)

    def teach(self, order: Order) -> AsyncGenerator[Step | Taught]:
        """Learn, and tell every step; the last thing told is what came of it."""
        return self._teacher.teach(order)

    async def unpacked(self, upload: Path) -> tuple[list[Example], list[str]]:
        """Return the pictures of an archive with a folder per class, and what was passed over.

        Raises:
            InvalidInput: it is no archive, a damaged one, or has no folders of classes.
            PayloadTooLarge: it holds too much.
        """
        return await in_background(lambda: _unpacked(upload), name="unpack")

    async def report(self, model: str, version: str) -> bytes:
        """Return the report of a version, as JSON."""
        return await asyncio.to_thread(self._file, model, version, REPORT_FILE)

    async def picture(self, model: str, version: str) -> bytes:
        """Return the confusion matrix of a version, as a PNG."""
        return await asyncio.to_thread(self._file, model, version, PICTURE_FILE)

    def _file(self, model: str, version: str, name: str) -> bytes:
        snapshot = self._repository.model(model).snapshot
        found = snapshot.versions.get(version) if snapshot is not None else None
        if found is None:
            raise VersionNotFound(
                f"model {model!r} has no version {version[:128]!r}", model=model, version=version
            )
        path = found.folder / name
        try:
            with path.open("rb") as file:
                return file.read(MAX_REPORT_BYTES)
        except OSError:
            raise NotFound(
                f"version {version!r} of model {model!r} has no {name}: it was not learned from "
                "pictures",
                model=model,
                version=version,
            ) from None


def _unpacked(upload: Path) -> tuple[list[Example], list[str]]:
    with upload.open("rb") as file:
        kind = archive.kind_of(file.read(HEAD_BYTES))
    if kind is None:
        raise InvalidInput(
            "the body is no archive; send a zip or tar file with a folder per class, a form with "
            "files in fields named after their class, or JSON",
            field="body",
            expected="zip, tar or tar.gz",
        )
    folder = Path(tempfile.mkdtemp(prefix="millrace-lesson-"))
    try:
        archive.unpack(upload, kind, folder, MAX_BYTES, keeps_top=is_class)
        return read_folder(folder)
    except archive.ArchiveInvalid as error:
        raise InvalidInput(f"the {kind} file cannot be used: {error}", field="body") from error
    except archive.ArchiveTooLarge as error:
        raise PayloadTooLarge(f"the {kind} file is too large: {error}") from error
    except OSError as error:
        raise StoreUnavailable(
            f"the {kind} file cannot be unpacked in {folder.parent}: {error.strerror or error}"
        ) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def step_dict(step: Step) -> dict[str, Any]:
    """Return a step as plain data."""
    counted = {"done": step.done, "total": step.total} if step.total else {}
    return {"stage": step.stage, **counted}


def taught_dict(taught: Taught) -> dict[str, Any]:
    """Return what came of an order as plain data."""
    model = quote(taught.model, safe="")
    answer: dict[str, Any] = {
        "model": taught.model,
        "version": taught.version,
        "loaded": taught.loaded,
        "summary": summary(taught.report),
    }
    if taught.version is not None:
        place = f"/models/{model}/versions/{quote(taught.version, safe='')}/report"
        answer["urls"] = {
            "classify": f"/classify?model={model}",
            "report": place,
            "picture": f"{place}.png",
        }
    seconds = {stage: round(value, 3) for stage, value in taught.seconds.items()}
    return {**answer, "report": dict(taught.report), "seconds": seconds}
