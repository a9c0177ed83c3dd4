"""Tables on the terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
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


@contextmanager
def counted(label: str) -> Iterator[Callable[[int, int], None]]:
    """Show how many of how many are done, on the terminal only; gives the function to tell it."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    terminal = Console(stderr=True)
    with Progress(
        *columns,
        TimeElapsedColumn(),
        console=terminal,
        transient=True,
        disable=not terminal.is_terminal,
    ) as bar:
        task = bar.add_task(label, total=None)

        def tell(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        yield tell


def plain(text: object) -> Any:
    """Return text that stays as it is: a shape in brackets is no markup."""
    from rich.text import Text

    return Text(str(text))


def number_text(number: object) -> str:
    """Return a number with its thousands apart, or an expression of symbols."""
    return f"{number:,}" if isinstance(number, int) else str(number)
