"""What every test may use: the data folder, and a word about the tests that missed it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

DATA_VARIABLE = "MILLRACE_TEST_DATA"
_NEEDS_DATA = f"needs the data folder: set {DATA_VARIABLE}"


# Of the tests of native code, those that compile little; the others are marked `native`.
NATIVE_FOLDER = Path(__file__).parent / "engine" / "cpu"
QUICK_NATIVE = frozenset(("test_addresses.py", "test_memory_plan.py", "test_plan.py"))
# And of those elsewhere, the ones that compile whole networks for this processor.
GENERATION_FOLDER = Path(__file__).parent / "engine" / "generation"
SLOW_GENERATION = frozenset(
    ("test_equality_networks.py", "test_graphs.py", "test_graphs_refused.py")
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what compiles many kernels; skip `data` tests where no data folder is named."""
    for item in items:
        if _compiles_much(item):
            item.add_marker(pytest.mark.native)
    if os.environ.get(DATA_VARIABLE):
        return
    for item in items:
        if item.get_closest_marker("data"):
            item.add_marker(pytest.mark.skip(reason=_NEEDS_DATA))


def _compiles_much(item: pytest.Item) -> bool:
    if item.path.is_relative_to(NATIVE_FOLDER):
        return item.path.name not in QUICK_NATIVE
    if item.path.is_relative_to(GENERATION_FOLDER) and item.path.name in SLOW_GENERATION:
        return True
    case = getattr(item, "callspec", None)
    return case is not None and case.params.get("device") == "cpu"


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
