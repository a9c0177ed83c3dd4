"""The thread that makes lists beside searches, and what it has made.

One thread works at a time, and only while there is something to do. What it makes is published by
one assignment; changes that came meanwhile are kept in a journal, and repeated before that.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Literal

from server.index.search import derived, library
from server.index.search.builder import (
    Approximate,
    Stopped,
    apply,
    built,
    moved,
    planned,
    restored,
    to_save,
)
from server.index.search.exact import Rows
from server.index.search.inverted import Inverted
from server.index.search.plan import ASKED, NoPlan, Plan
from server.index.search.selection import Mask, Slots
from server.index.search.upkeep import Job, Situation, due

Change = Literal["add", "remove"]

_SAVE_CHANGED = 0.05  # of the rows: fewer are put into their lists anew when the file is read

_FEW_CHANGES = 256  # are repeated while changes wait: milliseconds

_log = logging.getLogger(__name__)


class Worker:
    """Lists of an index, and their upkeep. `changing` guards all but `approximate`."""

    def __init__(
        self,
        changing: threading.RLock,
        now: Callable[[], tuple[Rows, Mask, int]],
        dim: int,
        path: Path | None,
        on_publish: Callable[[], None],
    ) -> None:
        """Begin without lists; `now` tells rows, which are alive, and how many."""
        self.approximate: Approximate | None = None
        self.refused: NoPlan | None = None
        self.progress: float | None = None
        self._changing = changing
        self._now = now
        self._dim = dim
        self._path = path
        self._on_publish = on_publish
        self._saved = path is not None and path.exists()
        self._loading = False
        self._unsaved_changes = 0
        self._journal: list[tuple[Change, Slots]] | None = None
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()

    def changed(self, change: Change, slots: Slots) -> None:
        """Follow a change of the rows, under `changing`."""
        if self.approximate is not None:
            rows, _, _ = self._now()
            apply(self.approximate.inverted, rows, change, slots, rows.metric)
        if self._journal is not None:
            self._journal.append((change, slots))
        self._unsaved_changes += slots.size
        self._consider()

    def be_more_careful(self, recall: float) -> None:
        """Read more lists, or none, after a recall too low; under `changing`."""
        old = self.approximate
        if old is None:
            return
        plan = old.plan.more_careful(recall)
        if plan is not None:
            self._publish(Approximate(old.inverted, plan, old.centres_for))
            return
        reason = (
            f"every row is compared: reading the most lists that are worth it gave recall "
            f"{recall:.2f} on queries, and {ASKED} is asked"
        )
        self._refuse(NoPlan(reason, self._now()[2]))

    def _situation(self) -> Situation:
        made = self.approximate
        return Situation(
            rows=self._now()[2],
            dim=self._dim,
            saved=self._saved,
            centres_for=made.centres_for if made else None,
            planned_for=made.plan.rows if made else 0,
            refused_at=self.refused.rows if self.refused else None,
        )

    def _consider(self) -> None:
        if self._thread is not None or self._stop.is_set() or due(self._situation()) is None:
            return
        if not library.is_installed():
            return
        self._thread = threading.Thread(target=self._work, name="vector-index", daemon=True)
        self._thread.start()

    def _work(self) -> None:
        library.yield_to_others()
        while True:
            with self._changing:
                job = None if self._stop.is_set() else due(self._situation())
                if job is None:
                    self.progress = None
                    self._thread = None
                    return
                self.progress = 0.0
                self._journal = []
                self._loading = job == "load"
                if self._loading:
                    self._saved = False
            try:
                self._perform(job)
            except Stopped:
                pass
            except Exception as error:
                _log.exception("vector index: the work in the background failed")
                with self._changing:
                    reason = f"every row is compared: the lists could not be made ({error})"
                    self._refuse(NoPlan(reason, self._now()[2]))
            finally:
                with self._changing:
                    self._journal = None
                    self._loading = False

    def _keep_going(self, share: float) -> bool:
        self.progress = share
        return not self._stop.is_set()

    def _perform(self, job: Job) -> None:
        rows, alive, count = self._now()
        if job == "drop":
            with self._changing:
                self.approximate = None
                self._forget_file()
        elif job == "load":
            self._load(rows, alive)
        elif job == "tune" and self.approximate is not None:
            old = self.approximate
            plan = planned(old.inverted, rows, alive.copy(), self._keep_going)
            self._finish(old.inverted, plan, old.centres_for)
        else:
            inverted = built(rows, alive.copy(), self._keep_going)
            self._catch_up(inverted)
            rows, alive, _ = self._now()
            plan = planned(inverted, rows, alive.copy(), self._keep_going)
            self._catch_up(inverted)
            self._finish(inverted, plan, count)

    def _load(self, rows: Rows, alive: Mask) -> None:
        saved = derived.read(self._path, self._dim, rows.metric) if self._path else None
        if saved is None:
            self._forget_file()
            return
        inverted = restored(rows, alive.copy(), saved, self._keep_going)
        self._catch_up(inverted)
        self._finish(inverted, saved.plan, saved.centres_for)

    def _catch_up(self, inverted: Inverted) -> None:
        """Repeat what the journal has, until next to nothing is left."""
        while True:
            with self._changing:
                waiting = self._journal or []
                if sum(slots.size for _, slots in waiting) < _FEW_CHANGES:
                    return
                self._journal = []
                rows, _, _ = self._now()
            for change, slots in waiting:
                if self._stop.is_set():
                    raise Stopped
                apply(inverted, rows, change, slots, rows.metric)

    def _finish(self, inverted: Inverted, plan: Plan | NoPlan, centres_for: int) -> None:
        """Repeat the rest of the journal, and publish."""
        with self._changing:
            if isinstance(plan, NoPlan):
                self._refuse(plan)
                return
            if self.approximate is None or inverted is not self.approximate.inverted:
                rows, _, _ = self._now()
                for change, slots in self._journal or []:
                    apply(inverted, rows, change, slots, rows.metric)
            self._journal = None
            self.refused = None
            self._publish(Approximate(inverted, plan, centres_for))
        self._save()

    def _publish(self, approximate: Approximate) -> None:
        self.approximate = approximate
        self._on_publish()

    def _refuse(self, plan: NoPlan) -> None:
        self.approximate = None
        self.refused = plan
        self._forget_file()
        self._on_publish()

    def _save(self) -> None:
        made = self.approximate
        if self._path is None or made is None:
            return
        with self._changing:
            self._unsaved_changes = 0
            rows, _, _ = self._now()
        try:
            derived.write(self._path, to_save(made, rows))
        except OSError:
            _log.warning("vector index: its file could not be written", exc_info=True)

    def _forget_file(self) -> None:
        if self._path is not None:
            with suppress(OSError):
                self._path.unlink(missing_ok=True)

    def file_bytes(self) -> int:
        """Return the size of the file."""
        try:
            return self._path.stat().st_size if self._path else 0
        except OSError:
            return 0

    def settle(self, timeout_s: float) -> bool:
        """Wait until there is nothing to do."""
        thread = self._thread
        if thread is not None:
            thread.join(timeout_s)
        return self._thread is None

    @property
    def is_loading(self) -> bool:
        """Whether a file waits to be read, or is being read."""
        with self._changing:
            return self._saved or self._loading

    def save_for(self, path: Path, slots: Slots) -> None:
        """Write the lists for an index that has the rows of `slots` (n,) in another order."""
        made = self.approximate
        if made is None:
            return
        rows, _, _ = self._now()
        try:
            derived.write(path, moved(to_save(made, rows), slots))
        except OSError:
            _log.warning("vector index: its file could not be written", exc_info=True)

    def close(self, *, keep: bool = True) -> None:
        """Stop, and keep what changed."""
        with self._changing:
            self._stop.set()
            thread = self._thread
        if thread is not None:
            thread.join()
        if keep and self._unsaved_changes > _SAVE_CHANGED * self._now()[2]:
            self._save()
