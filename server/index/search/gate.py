"""Many may read at one time, or one may write."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Gate:
    """Readers pass together; a writer keeps new readers out, and waits until the others have left.

    To pass costs a reader under a microsecond: two plain locks, each held for one addition.
    """

    __slots__ = ("_count_left", "_entered", "_entrance", "_left", "_someone_left")

    def __init__(self) -> None:
        self._entrance = threading.Lock()  # a writer holds it for as long as it writes
        self._entered = 0  # by readers, under _entrance
        self._count_left = threading.Lock()
        self._left = 0  # by readers, under _count_left
        self._someone_left = threading.Condition(self._count_left)

    def enter(self) -> None:
        """Begin to read; `leave` must follow."""
        with self._entrance:
            self._entered += 1

    def leave(self) -> None:
        """End what `enter` began."""
        with self._count_left:
            self._left += 1
            if self._entrance.locked():  # perhaps by a writer that waits for this
                self._someone_left.notify()

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Be alone inside."""
        with self._entrance:
            with self._count_left:
                while self._left != self._entered:
                    self._someone_left.wait()
            yield
