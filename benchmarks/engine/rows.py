"""What is measured: a key names a row of the results, a row holds what was found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any


@dataclass(frozen=True, order=True)
class Key:
    """Names a row. Rows of one key replace each other.

    Attributes:
        figure: Number of the figure that the row belongs to.
        network: Its name in the table of networks.
        length: Of the text; 0 where there is none.
        batch: Items in one call.
        threads: Cores that one call may use, on both sides.
        precision: Of our side: "fp32", "bf16" or "int8".
    """

    figure: int
    network: str
    length: int = 0
    batch: int = 1
    threads: int = 1
    precision: str = "fp32"

    def __str__(self) -> str:
        length = f" L={self.length}" if self.length else ""
        return (
            f"figure {self.figure} {self.network}{length} t={self.threads} b={self.batch} "
            f"{self.precision}"
        )


@dataclass
class Row:
    """One measurement, or the reason why there is none.

    Attributes:
        key: Which row of which figure.
        values: Numbers by name; what they mean is the figure's matter.
        bounds: Limits by the value's name: ("<=" or ">=", number).
        failed: Why there are no values, "" when there are.
        commit: Of the code that was measured.
        when: Date and time, UTC.
    """

    key: Key
    values: dict[str, Any] = field(default_factory=dict)
    bounds: dict[str, tuple[str, float]] = field(default_factory=dict)
    failed: str = ""
    commit: str = ""
    when: str = ""

    @property
    def reached(self) -> bool:
        """Whether every bound holds."""
        return not self.failed and all(
            name in self.values and holds(self.values[name], *bound)
            for name, bound in self.bounds.items()
        )

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {**asdict(self), "reached": self.reached}


def holds(value: float, relation: str, limit: float) -> bool:
    """Tell whether `value` keeps within a bound; a missing number does not."""
    if relation not in ("<=", ">="):
        raise ValueError(f"relation {relation!r}: expected '<=' or '>='")
    return value <= limit if relation == "<=" else value >= limit


def row_from_dict(data: dict[str, Any]) -> Row:
    """Read what `Row.as_dict` wrote."""
    bounds = {name: (str(b[0]), float(b[1])) for name, b in data["bounds"].items()}
    return Row(
        Key(**data["key"]),
        data["values"],
        bounds,
        data["failed"],
        data["commit"],
        data["when"],
    )


def merged(old: Sequence[Row], new: Sequence[Row]) -> list[Row]:
    """Return all rows in order of their keys; a new one takes an old one's place."""
    return [row for _, row in sorted({row.key: row for row in (*old, *new)}.items())]


def compared_anew(old: Row | None, new: Row) -> Row:
    """Return a row whose outputs were compared again, with the times that it had: their commit and
    hour stay.
    """
    if old is None or old.failed or new.failed:
        return new
    return replace(new, values={**old.values, **new.values}, commit=old.commit, when=old.when)
