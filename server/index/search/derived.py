"""The file of a collection's lists: centres, which list each slot is in, how many lists to read.

The rows are not in it. A fingerprint of each says, when the file is read, which rows have changed
since; those are put into their lists anew. A file that is damaged or of another form is no error:
it is made again.
"""

from __future__ import annotations

import json
import logging
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from server.index.contract import Metric, Vectors
from server.index.search.plan import Plan

_FORM = 1

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Derived:
    """What the file holds."""

    metric: Metric
    centres: Vectors  # (lists, dim)
    list_of: NDArray[np.int32]  # by slot; -1: in none
    fingerprints: NDArray[np.uint32]  # by slot, of the row that was put there
    plan: Plan
    centres_for: int  # rows


def fingerprints(rows: Vectors) -> NDArray[np.uint32]:
    """Return a number per row (n,) that another row has by an accident of one in 2**32."""
    bits = np.ascontiguousarray(rows, np.float32).view(np.uint32)
    weights = np.random.default_rng(1).integers(0, 2**32, bits.shape[1], np.uint32) | 1
    mixed = bits ^ (bits >> np.uint32(15))
    sums: NDArray[np.uint32] = np.einsum("nd,d->n", mixed, weights.astype(np.uint32))
    return sums


def write(path: Path, derived: Derived) -> None:
    """Put the file in place whole, or not at all.

    Raises:
        OSError: the disk says no.
    """
    facts = {
        "form": _FORM,
        "metric": derived.metric,
        "centres_for": derived.centres_for,
        "rows": derived.plan.rows,
        "recall": derived.plan.recall,
        "probes": derived.plan.probes,
    }
    beside = path.with_name(path.name + ".new")
    try:
        with beside.open("wb") as file:
            np.savez(
                file,
                facts=np.frombuffer(json.dumps(facts).encode(), np.uint8),
                centres=derived.centres,
                list_of=derived.list_of,
                fingerprints=derived.fingerprints,
            )
        os.replace(beside, path)  # noqa: PTH105 - one call, the same word as the system's
    except OSError:
        with suppress(OSError):
            beside.unlink()
        raise


def read(path: Path, dim: int, metric: Metric) -> Derived | None:
    """Return what the file holds; None if it is missing, damaged, or made for other rows."""
    try:
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            facts = json.loads(file["facts"].tobytes())
            centres, list_of, prints = (
                file[name] for name in ("centres", "list_of", "fingerprints")
            )
        probes = tuple((int(k), int(p)) for k, p in facts["probes"])
        plan = Plan(probes, len(centres), float(facts["recall"]), int(facts["rows"]))
        form, made_with, centres_for = facts["form"], facts["metric"], int(facts["centres_for"])
    except Exception as error:  # what readers of archives raise of damaged ones has no end
        _log.info("vector index: its file cannot be read and is made again (%r)", error)
        return None
    fits = (
        form == _FORM
        and made_with == metric
        and centres.dtype == np.float32
        and centres.ndim == 2
        and centres.shape[1] == dim
        and bool(np.isfinite(centres).all())
        and list_of.dtype == np.int32
        and prints.dtype == np.uint32
        and list_of.shape == prints.shape == (list_of.size,)
        and -1 <= list_of.min(initial=-1) <= list_of.max(initial=-1) < len(centres)
        and bool(probes)
        and all(k > 0 and 0 < p <= len(centres) for k, p in probes)
    )
    return Derived(metric, centres, list_of, prints, plan, centres_for) if fits else None
