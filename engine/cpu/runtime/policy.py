"""Who computes next, and on how many cores. Pure: no clock, no locks, no threads."""

from __future__ import annotations

from collections.abc import Sequence


def grant(wanted: Sequence[int], free: int) -> list[int]:
    """Return how many cores each waiting run gets now, in the order of their coming.

    Cores are never left idle while somebody waits, nobody is overtaken, and nobody waits for a full
    gang: who comes while others compute starts on what is free. Runs that wait together share the
    free cores evenly, since two runs on one core each take less than one after the other on two.

    Args:
        wanted: The cores that each run asks for, each at least 1; the longest waiting first.
        free: Cores that nobody computes on.

    Returns:
        Cores for the first runs of `wanted`, each at least 1; the others go on waiting.
    """
    served = min(len(wanted), free)
    grants = [0] * served
    # The most modest first: what they leave of their share goes to the others. Of equals the
    # latest first, so that a core that is left over goes to who waits longest.
    for left, place in enumerate(sorted(range(served), key=lambda i: (wanted[i], -i))):
        grants[place] = min(wanted[place], free // (served - left))
        free -= grants[place]
    return grants
