"""What the batcher costs: per request at several concurrencies, inline and through a thread.

The model does nothing, so everything measured is the batcher. Closed loop: every client submits
again as soon as it has its answer. Prints a table.

    python -m benchmarks.server.batcher
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from statistics import median

import numpy as np
import uvloop

from server.batching import Batcher, Work
from server.execution import WorkerPool
from server.metrics import Metrics
from server.model_config import BatchingConfig

REQUESTS = 20_000
REPEATS = 5
ROW = np.zeros((1, 784), np.float32)


@dataclass(frozen=True)
class Axes:
    inputs: frozenset[str] = frozenset({"x"})
    outputs: frozenset[str] = frozenset({"y"})


@dataclass(frozen=True)
class Spec:
    name: str = "x"


def nothing(inputs, fetches):
    return {"y": inputs["x"][:, :10]}


async def measure(concurrency: int, inline_us: int) -> tuple[float, float]:
    """Return (CPU us per request, median latency in us)."""
    pool = WorkerPool(2)
    batcher = Batcher(
        nothing,
        inputs=[Spec()],
        batch=Axes(),
        config=BatchingConfig(max_batch_size=32),
        pool=pool,
        metrics=Metrics().model("bench", "1"),
        inline_us=inline_us,
    )
    latencies: list[float] = []

    async def client(count: int) -> None:
        for _ in range(count):
            start = time.perf_counter()
            await batcher.submit(Work({"x": ROW}, 1, None, batcher._clock() + 60_000_000))
            latencies.append(time.perf_counter() - start)

    async def clients(total: int) -> None:
        await asyncio.gather(*(client(total // concurrency) for _ in range(concurrency)))

    await clients(500)
    latencies.clear()
    start = time.process_time()
    await clients(REQUESTS)
    cpu_s = time.process_time() - start
    await batcher.close()
    pool.close()
    return cpu_s / len(latencies) * 1e6, median(latencies) * 1e6


def main() -> None:
    print("| runs | concurrency | CPU us/request | p50 us |")
    print("|---|--:|--:|--:|")
    for name, inline_us in (("on the loop", 500), ("in a thread", 0)):
        for concurrency in (1, 8, 32, 64):
            figures = [uvloop.run(measure(concurrency, inline_us)) for _ in range(REPEATS)]
            cpu, latency = (median(column) for column in zip(*figures, strict=True))
            print(f"| {name} | {concurrency} | {cpu:.1f} | {latency:.1f} |")


if __name__ == "__main__":
    main()
