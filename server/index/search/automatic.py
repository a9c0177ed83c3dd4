"""The choice between lists and a comparison with every allowed row, one search at a time."""

from __future__ import annotations

from server.index.contract import Vectors
from server.index.search.builder import Approximate
from server.index.search.metrics import Floats
from server.index.search.selection import Allowed, Slots

# Up to so many allowed rows are gathered and compared: that takes no longer than to find the lists
# that hold them.
FEW = 8192
# Times as many allowed rows are read as a search without a filter reads: what is allowed may lie
# elsewhere than where the query points.
FILTER_MARGIN = 4
LARGEST_SHARE = 0.5  # of the allowed rows; beyond it every one is compared


def search_lists(
    approximate: Approximate, queries: Vectors, k: int, allowed: Allowed | None
) -> tuple[Slots, Floats] | None:
    """Return slots and scores (m, k) by way of lists; None where every row should be compared.

    Slots end in -1 where the lists that were read held fewer than k.
    """
    inverted, plan = approximate.inverted, approximate.plan
    probes = plan.probes_for(k)
    if probes is None:
        return None
    if allowed is None:
        return inverted.search(queries, k, probes)
    to_read = FILTER_MARGIN * probes * len(inverted) / inverted.lists
    if allowed.count <= max(FEW, k) or to_read > LARGEST_SHARE * allowed.count:
        return None
    return inverted.search_allowed(queries, k, probes, allowed, to_read)
