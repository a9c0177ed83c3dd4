"""Which rows there are, and which of them were asked for."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from benchmarks.engine.networks.table import NETWORKS
from benchmarks.engine.rows import Key

THREADS, BATCHES = (1, 2), (1, 8)
PHOTOS = "photos"  # the model that ships, looked at picture by picture
LOADED = ("resnet50", "bert_base")


@dataclass(frozen=True)
class Selection:
    """Empty fields choose everything."""

    figures: Collection[int] = ()
    networks: Collection[str] = ()
    threads: Collection[int] = ()
    batches: Collection[int] = ()
    lengths: Collection[int] = ()
    precisions: Collection[str] = ()

    def __contains__(self, key: Key) -> bool:
        chosen = (
            (self.figures, key.figure),
            (self.networks, key.network),
            (self.threads, key.threads),
            (self.batches, key.batch),
            (self.lengths, key.length),
            (self.precisions, key.precision),
        )
        return all(not wanted or value in wanted for wanted, value in chosen)


def all_keys() -> Iterator[Key]:
    """Yield every row, those that share loaded models side by side."""
    for figure, precision in ((1, "fp32"), (2, "bf16"), (3, "int8")):
        for name, network in NETWORKS.items():
            if precision == "int8" and not network.integers:
                continue
            for threads, length, batch in product(THREADS, network.lengths, BATCHES):
                yield Key(figure, name, length, batch, threads, precision)
    yield Key(2, PHOTOS, 0, 64, max(THREADS), "bf16")
    for threads in THREADS:
        yield Key(4, "resnet50", 0, 8, threads)
    for name in LOADED:
        yield Key(5, name, max(NETWORKS[name].lengths), 1, max(THREADS))
    for threads in THREADS:
        yield Key(6, "mlp", 0, 1, threads)


def selected(selection: Selection) -> list[Key]:
    """Return the rows that were asked for."""
    return [key for key in all_keys() if key in selection]


def oldest_first(keys: Sequence[Key], measured: Mapping[Key, str]) -> list[Key]:
    """Return the rows longest not measured first; those that share loaded models stay together.

    Args:
        keys: Rows.
        measured: Times of measuring, in a form whose order is that of time.
    """

    def group(key: Key) -> tuple[int, str, int, str]:
        return key.figure, key.network, key.threads, key.precision

    ages: dict[tuple[int, str, int, str], str] = {}
    for key in keys:
        ages[group(key)] = min(ages.get(group(key), "~"), measured.get(key, ""))
    return sorted(keys, key=lambda key: (ages[group(key)], group(key), measured.get(key, "")))
