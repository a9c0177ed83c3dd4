"""How long Python takes per step: a decoder whose native calls return at once."""

from __future__ import annotations

import time
from statistics import median

import engine
from benchmarks.translation.our_side import Millrace
from benchmarks.translation.work import Work

STEPS = 2000
WARM_UP = 5


def python_us(side: Millrace, work: Work) -> float:
    """Return the median microseconds of a step of one batch without its native part.

    It reaches into the decoder: nothing public tells the two apart.
    """
    decoder = side.decoder
    [batch] = work.batches()
    sources = decoder.add_sources(batch)
    many = engine.Search(start=side.start, end=(0,), max_new_tokens=100, min_new_tokens=100,
                         beams=work.beams)  # fmt: skip
    handles = [decoder.start(source, many) for source in sources]
    for _ in range(WARM_UP):
        decoder.step()
    slots = decoder._slots._slots  # type: ignore[attr-defined]
    program = slots._run._ready[len(batch) * work.beams]._program
    native = program._entry
    program._entry = lambda address, what: 0
    times = []
    try:
        for _ in range(STEPS):
            start = time.perf_counter_ns()
            decoder.step()
            times.append(time.perf_counter_ns() - start)
    finally:
        program._entry = native
        for handle in handles:
            decoder.release(handle)
        for source in sources:
            decoder.release_source(source)
    return round(median(times) / 1e3, 1)
