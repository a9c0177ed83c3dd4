"""Tables on the terminal."""

from __future__ import annotations

from typing import Any


def console() -> Any:
    """Return rich's console."""
    # Imported late: a child that only compiles must start quickly.
    from rich.console import Console

    return Console(highlight=False, soft_wrap=False)


def table(*columns: str) -> Any:
    """Return an empty table: names on the left, numbers to the right."""
    from rich.table import Table

    made = Table(box=None, pad_edge=False)
    for i, column in enumerate(columns):
        made.add_column(column, justify="left" if i == 0 else "right", overflow="fold")
    return made


def plain(text: object) -> Any:
    """Return text that stays as it is: a shape in brackets is no markup."""
    from rich.text import Text

    return Text(str(text))


def number_text(number: object) -> str:
    """Return a number with its thousands apart, or an expression of symbols."""
    return f"{number:,}" if isinstance(number, int) else str(number)
