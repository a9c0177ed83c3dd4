"""Gives every buffer of the arena its place: by liveness, so that dead values make room.

Two steps. What depends on the program alone (who lives how long, who may take over whose memory) is
settled once; offsets follow for given sizes by the greedy rule "largest first, at the lowest offset
that is free for its whole life".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from engine.cpu.buffers import Buffer, Place, Program, Step
from engine.ir.types import Dim

ALIGNMENT = 64  # a cache line, and the widest vector


@dataclass(eq=False)
class Tenant:
    """Memory that one value after the other may live in.

    Attributes:
        size_bytes: How much.
        first: The step that first writes it.
        last: The last step that touches it.
    """

    size_bytes: Dim
    first: int
    last: int


class Liveness:
    """Who lives when in the arena of a program."""

    def __init__(self, program: Program) -> None:
        self.tenants: list[Tenant] = []
        self._of: dict[int, Tenant] = {}  # by the buffer's identity
        self._buffers: list[Buffer] = []  # kept alive, so that identities stay theirs
        last = _last_uses(program.steps)
        for i, step in enumerate(program.steps):
            self._settle(i, step, last)
        for i, step in enumerate(program.steps):
            for buffer in (*step.writes, *step.reads):
                tenant = self._of.get(id(buffer.root[0]))
                if tenant is not None:
                    tenant.first, tenant.last = min(tenant.first, i), max(tenant.last, i)

    def tenant(self, root: Buffer) -> Tenant:
        """Return where a buffer without a parent lives."""
        return self._of[id(root)]

    def _settle(self, i: int, step: Step, last: Mapping[int, int]) -> None:
        for buffer in (*step.writes, *step.reads):
            root, _ = buffer.root
            if root.place is not Place.ARENA or id(root) in self._of:
                continue
            heir = self._inherited(i, step, last) if buffer is step.writes[0] else None
            if heir is None:
                heir = Tenant(root.size_bytes, i, i)
                self.tenants.append(heir)
            self._of[id(root)] = heir
            self._buffers.append(root)

    def _inherited(self, i: int, step: Step, last: Mapping[int, int]) -> Tenant | None:
        """Return the memory of an operand that dies here, if the step may work in place on it."""
        target = step.writes[0]
        if not step.in_place or target.parent is not None:
            return None
        for source in step.reads:
            if (
                source.parent is None
                and source.place is Place.ARENA
                and last[id(source)] == i
                and source.size_bytes == target.size_bytes
                and type(source.layout) is type(target.layout)
                and id(source) in self._of
                and sum(r.root[0] is source for r in step.reads) == 1
            ):
                return self._of[id(source)]
        return None


def _last_uses(steps: Sequence[Step]) -> dict[int, int]:
    last: dict[int, int] = {}
    for i, step in enumerate(steps):
        for buffer in (*step.writes, *step.reads):
            last[id(buffer.root[0])] = i
    return last


def place(tenants: Sequence[Tenant], sizes: Sequence[int]) -> tuple[list[int], int]:
    """Return an offset per tenant for these sizes in bytes, and the bytes of the whole arena."""
    rounded = [-(-size // ALIGNMENT) * ALIGNMENT for size in sizes]
    offsets = [0] * len(tenants)
    placed: list[tuple[int, int, int, int]] = []  # offset, end, first, last; by offset
    total = 0
    for k in sorted(range(len(tenants)), key=lambda k: -rounded[k]):
        tenant, size, offset = tenants[k], rounded[k], 0
        for start, end, first, last in placed:
            if last < tenant.first or tenant.last < first:
                continue
            if offset + size <= start:
                break
            offset = max(offset, end)
        offsets[k] = offset
        placed.append((offset, offset + size, tenant.first, tenant.last))
        placed.sort()
        total = max(total, offset + size)
    return offsets, total
