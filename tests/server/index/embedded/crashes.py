"""Kill a process that changes collections, look at what it left, and again.

    python -m tests.server.index.embedded.crashes FOLDER KILLS SEED

One process with everything imported forks the ones that are killed and the ones that look: it
never has a thread of its own, and a kill costs milliseconds. Exits with 1 at the first fault.
"""

from __future__ import annotations

import json
import os
import random
import select
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from tests.server.index.embedded import crash_model
from tests.server.index.embedded.crash_model import State

MOST_DONE = 5  # changes that a process gets done before it is killed
MOST_DELAY_S = 0.03  # from then to the kill: somewhere in the next change
PATIENCE_S = 120.0


def main(root: Path, kills: int, seed: int) -> int:
    chance = random.Random(seed)
    in_child(lambda: crash_model.prepare(root))
    state = State()
    caught: Counter[str] = Counter()
    for turn in range(kills):
        done, begun = killed(root, turn + 1, chance)
        before = state
        for change in done:
            before = before.after(change)
        candidates = [before, before.after(begun)]
        state = look(root, candidates)
        came = "whole" if state == candidates[1] else "not at all"
        caught[f"{begun['kind']}: {came}" if begun else "between"] += 1
    print(json.dumps(dict(sorted(caught.items()))))
    return 0


def killed(root: Path, seed: int, chance: random.Random) -> tuple[list[Any], Any]:
    """Return the changes that a process got done, and the one it was killed in."""
    source, sink = os.pipe()

    def work() -> None:
        os.close(source)
        with os.fdopen(sink, "w", buffering=1) as told:
            crash_model.work(
                root, seed, lambda c: _tell(told, json.dumps(c)), lambda: _tell(told, "done")
            )

    child = fork(work)
    os.close(sink)
    wanted, lines, left = chance.randint(0, MOST_DONE), 0, b""
    with os.fdopen(source, "rb", buffering=0) as told:
        while lines < 2 * wanted + 1:  # the last one has begun
            assert select.select([told], [], [], PATIENCE_S)[0], "nothing happens"
            piece = told.read(65536)
            assert piece, "the process ended by itself"
            left += piece
            lines = left.count(b"\n")
        time.sleep(chance.uniform(0, MOST_DELAY_S))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        while piece := told.read(65536):
            left += piece
    told_lines = left.decode().split("\n")[:-1]  # of a cut line nothing had begun
    changes = [json.loads(line) for line in told_lines[::2]]
    finished = told_lines.count("done")
    return changes[:finished], changes[finished] if finished < len(changes) else None


def look(root: Path, candidates: list[State]) -> State:
    """Return which of the states is there."""
    source, sink = os.pipe()

    def compare() -> None:
        found = crash_model.found(root)
        assert found in candidates, f"found {found}\nexpected one of {candidates}"
        os.write(sink, str(candidates.index(found)).encode())

    in_child(compare)
    os.close(sink)
    with os.fdopen(source) as told:
        return candidates[int(told.read())]


def in_child(run: Callable[[], None]) -> None:
    _, status = os.waitpid(fork(run), 0)
    if status:
        sys.exit(1)


def fork(run: Callable[[], None]) -> int:
    child = os.fork()
    if child:
        return child
    return _run_and_exit(run)


def _run_and_exit(run: Callable[[], None]) -> NoReturn:
    try:
        run()
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    os._exit(0)


def _tell(told: Any, line: str) -> None:
    told.write(line + "\n")


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])))
