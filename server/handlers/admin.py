"""What changes the server's state. Who may ask for it is decided by the protocol's guard."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

from server.errors import LoadFailed
from server.repository.registry import Repository
from server.repository.status import ModelStatus


@dataclass(frozen=True, slots=True)
class Pushed:
    """A version that was published, and whether it serves yet."""

    model: str
    version: str
    loaded: bool


class AdminHandler:
    """Loads, unloads, promotes, labels, publishes and deletes."""

    def __init__(self, repository: Repository) -> None:
        """Keep the repository."""
        self._repository = repository

    async def load(self, model: str, version: str | None) -> ModelStatus:
        """Load a model or one version, and wait until it serves."""
        await self._repository.load(model, version)
        return self._status(model)

    async def unload(self, model: str, version: str | None) -> ModelStatus:
        """Stop serving a model or one version, and wait until it is out of memory."""
        await self._repository.unload(model, version)
        return self._status(model)

    async def promote(self, model: str, version: str) -> ModelStatus:
        """Make a version the default one."""
        await self._repository.promote(model, version)
        return self._status(model)

    async def rollback(self, model: str) -> ModelStatus:
        """Make the version before the default one again."""
        await self._repository.rollback(model)
        return self._status(model)

    async def set_label(self, model: str, label: str, version: str | None) -> ModelStatus:
        """Point a label to a version, or remove it."""
        await self._repository.set_label(model, label, version)
        return self._status(model)

    async def publish(
        self, model: str, version: str | None, source: AsyncIterator[bytes], *, wait: bool
    ) -> Pushed:
        """Add a version from a stream; with `wait`, return when it serves."""
        published = await self._repository.publish(model, version, source)
        if not wait:
            return Pushed(model, published.version, False)
        try:
            loaded = await self._repository.wait_loaded(model, published.version)
        except LoadFailed as error:
            stays = f"version {published.version!r} stays in the repository until it is deleted"
            raise type(error)(f"{error.message}; {stays}", **error.extra) from error
        return Pushed(model, published.version, loaded is not None)

    async def delete(self, model: str, version: str) -> None:
        """Unload a version and remove its files."""
        await self._repository.delete(model, version)

    def _status(self, model: str) -> ModelStatus:
        return self._repository.status(model)[0]
