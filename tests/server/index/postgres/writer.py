"""Writes to a store until it is killed; run by `test_processes.py`.

    python -m tests.server.index.postgres.writer URL COLLECTION

Reads lines: `go SEED` forks a process that writes and reports each call that has returned, `kill`
ends it at once. So a kill costs no start of an interpreter.
"""

from __future__ import annotations

import os
import signal
import sys
import zlib

import numpy as np

from server.index.contract import NewItem, Vectors
from server.index.postgres import open_store

DIM = 4
SPACES = ("one", "two")
BATCH = 7


def vector_of(id: str, turn: int) -> Vectors:
    """Return the row (DIM,) that belongs to this item of this turn."""
    seed = zlib.crc32(f"{id} {turn}".encode())
    return np.random.default_rng(seed).standard_normal(DIM).astype(np.float32)


def picture_of(id: str, turn: int) -> bytes:
    return f"{id} in turn {turn} ".encode() * 50


def ids_of(seed: int) -> list[str]:
    return [f"{seed:04}-{i}" for i in range(BATCH)]


def write(url: str, name: str, seed: int) -> None:
    """Put the same items again and again, and delete them every fourth time."""
    collection = open_store(url).open(name)
    ids = ids_of(seed)
    turn = 0
    while True:
        turn += 1
        say(f"begins {turn}")
        if turn % 4 == 0:
            collection.delete(ids)
        else:
            rows = np.stack([vector_of(id, turn) for id in ids])
            items = [NewItem(id, {"turn": turn}, picture_of(id, turn)) for id in ids]
            collection.put(items, dict.fromkeys(SPACES, rows))
        say(f"done {turn}")


def say(line: str) -> None:
    os.write(1, f"{line}\n".encode())


def main() -> None:
    url, name = sys.argv[1:]
    child = 0
    for line in sys.stdin:
        word, *rest = line.split()
        if word == "go":
            child = os.fork()
            if child == 0:
                write(url, name, int(rest[0]))
        else:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            say("dead")


if __name__ == "__main__":
    main()
