"""The choice between lists and a comparison with every allowed row, one search at a time."""

from __future__ import annotations

import math

from server.index.contract import Vectors
from server.index.search.builder import Approximate
from server.index.search.metrics import Floats
from server.index.search.selection import Allowed, Slots

# Up to so many allowed rows are gathered and compared: that takes no longer than to find the lists
# that hold them.
FEW = 8192
# Times as many allowed rows are read as would do if those were spread evenly: what is allowed may
# lie elsewhere than where the query points.
FILTER_MARGIN = 3
LARGEST_SHARE = 0.5  # of the allowed rows; beyond it every one is compared


def search_lists(
    approximate: Approximate, queries: Vectors, k: int, allowed: Allowed | None
) -> tuple[Slots, Floats] | None:
    """Return slots and scores (m, k) by way of lists; None where every row should be compared.

    Slots end in -1 where the lists that were read held fewer than k.
    """
    inverted, plan = approximate.inverted, approximate.plan
    if allowed is None:
        probes = plan.probes_for(k)
        return None if probes is None else inverted.search(queries, k, probes)
    if allowed.count <= max(FEW, k):
        return None
    # The k nearest of a share of all rows are about the k / share nearest of all.
    share = min(1.0, allowed.count / max(1, len(inverted)))
    probes = plan.probes_for(math.ceil(k / share))
    if probes is None:
        return None
    to_read = FILTER_MARGIN * share * probes * len(inverted) / inverted.lists
    if to_read > LARGEST_SHARE * allowed.count:
        return None
    return inverted.search_allowed(queries, k, probes, allowed, to_read)
