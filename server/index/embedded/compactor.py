"""When a collection is compacted, and the thread that does it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from server.errors import ServerError
from server.index.embedded.compaction import Stopped

log = logging.getLogger(__name__)

AGAIN = 1.25  # times as many removed slots call for another try where one failed


class Compactor:
    """Runs a compaction beside everything else, one at a time."""

    def __init__(self, name: str, least: int, work: Callable[[Callable[[], bool]], None]) -> None:
        """Prepare; `work` compacts, and stops soon once what it is given answers False."""
        self._name, self._least, self._work = name, least, work
        self._guard = threading.Lock()
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self._not_below = 0  # removed slots, after a failure

    def consider(self, dead: int, alive: int) -> None:
        """Begin, if so many slots of removed items are worth it."""
        if dead <= alive or dead < max(self._least, self._not_below):
            return
        with self._guard:
            if self._thread is None and not self._stop.is_set():
                self._thread = threading.Thread(
                    target=self._run, args=(dead,), name="compaction", daemon=True
                )
                self._thread.start()

    def _run(self, dead: int) -> None:
        try:
            self._work(lambda: not self._stop.is_set())
            self._not_below = 0
        except Stopped:
            pass
        except ServerError as error:  # nothing is lost: it is tried again later
            self._not_below = int(dead * AGAIN)
            log.warning("collection %s could not be compacted: %s", self._name, error)
        except Exception:
            self._not_below = int(dead * AGAIN)
            log.exception("collection %s could not be compacted", self._name)
        finally:
            with self._guard:
                self._thread = None

    def settle(self, timeout_s: float) -> bool:
        """Wait for what is under way; False if it takes longer."""
        thread = self._thread
        if thread is not None:
            thread.join(timeout_s)
        return thread is None or not thread.is_alive()

    def stop(self) -> None:
        """Let it come to an end soon."""
        self._stop.set()

    def close(self) -> None:
        """Stop, and wait for it; the caller holds no lock that the work needs."""
        with self._guard:
            self._stop.set()
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()
