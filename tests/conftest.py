"""What every test may use: the data folder, and a word about the tests that missed it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

DATA_VARIABLE = "MILLRACE_TEST_DATA"
_NEEDS_DATA = f"needs the data folder: set {DATA_VARIABLE}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests marked `data` where no data folder is named."""
    if os.environ.get(DATA_VARIABLE):
        return
    for item in items:
        if item.get_closest_marker("data"):
            item.add_marker(pytest.mark.skip(reason=_NEEDS_DATA))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many tests were left out for want of data."""
    skipped = terminalreporter.stats.get("skipped", [])
    count = sum(_NEEDS_DATA in str(report.longrepr) for report in skipped)
    if count:
        terminalreporter.write_line(f"{count} tests left out: {DATA_VARIABLE} is not set")


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder that MILLRACE_TEST_DATA names."""
    return Path(os.environ[DATA_VARIABLE])
