"""Decide whether a version's files are all there, so that a half-copied one is never served.

With a manifest: every file is there and as long as it should be; the loader then compares every
hash before it opens anything. Without one, files that have not changed for `settle_s` are taken to
be complete, and the loader has the last word.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from server.repository.manifest import (
    ManifestInvalid,
    VersionIncomplete,
    check_lengths,
    read_manifest,
)
from server.repository.scan import VersionSnapshot


@dataclass(frozen=True)
class Verdict:
    """What is known about one version's files."""

    complete: bool
    reason: str | None = None  # why not
    wait_s: float | None = None  # when to look again; None: when the files change


COMPLETE = Verdict(True)


class CompletenessChecker:
    """Judges versions, each once until its files change."""

    def __init__(self, settle_s: float) -> None:
        """Take the time that files without a manifest must stay unchanged."""
        self._settle_s = settle_s
        self._verdicts: dict[str, Verdict] = {}  # by snapshot key; final until the key changes
        self._first_seen: dict[str, float] = {}  # by snapshot key, monotonic

    def judge(self, version: VersionSnapshot, wall_s: float, monotonic_s: float) -> Verdict:
        """Say whether the version is complete. Reads files: call it off the event loop."""
        known = self._verdicts.get(version.key)
        if known is not None:
            return known
        verdict = self._examine(version, wall_s, monotonic_s)
        if verdict.wait_s is None:
            self._verdicts[version.key] = verdict
        return verdict

    def _examine(self, version: VersionSnapshot, wall_s: float, monotonic_s: float) -> Verdict:
        try:
            manifest = read_manifest(version.folder)
            if manifest is None:
                return self._settled(version, wall_s, monotonic_s)
            check_lengths(version.folder, manifest)
        except (ManifestInvalid, VersionIncomplete) as error:
            return Verdict(False, f"incomplete: {error}")
        except OSError as error:
            return Verdict(False, f"incomplete: {error}")
        return COMPLETE

    def _settled(self, version: VersionSnapshot, wall_s: float, monotonic_s: float) -> Verdict:
        # Two clocks: the file system's tells at once that files are old; our own works even when
        # the file server's clock is ahead.
        first = self._first_seen.setdefault(version.key, monotonic_s)
        quiet_s = max(wall_s - version.changed_s, monotonic_s - first)
        if quiet_s >= self._settle_s:
            return COMPLETE
        wait_s = self._settle_s - quiet_s
        return Verdict(False, "waiting until its files stop changing (it has no manifest)", wait_s)

    def forget_all_but(self, keys: Iterable[str]) -> None:
        """Drop what is known about files that are no longer there."""
        alive = set(keys)
        for known in (self._verdicts, self._first_seen):
            for key in known.keys() - alive:
                del known[key]
