"""What every test may use: the data folder, and a word about the tests that missed it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# How long generated inputs take is the machine's and its other work's affair, not a fault. The gate
# tries the same inputs at every run: what it says of a change must be about that change. With
# `--hypothesis-profile=searching` (as in `make test-full`) they are others every time.
PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("searching", PATIENT)
settings.register_profile("patient", PATIENT, derandomize=True)
settings.load_profile("patient")

DATA_VARIABLE = "MILLRACE_TEST_DATA"
_NEEDS_DATA = f"needs the data folder: set {DATA_VARIABLE}"


# Of the tests of native code, those that compile little; the others are marked `native`.
HERE = Path(__file__).parent
NATIVE_FOLDER = HERE / "engine" / "cpu"
QUICK_NATIVE = frozenset(("test_addresses.py", "test_memory_plan.py", "test_plan.py"))
# And of those elsewhere, the ones that compile whole networks for this processor.
GENERATION_FOLDER = HERE / "engine" / "generation"
SLOW_GENERATION = frozenset(
    ("test_equality_networks.py", "test_graphs.py", "test_graphs_refused.py")
)

# Tests that try very many inputs, start servers, or load whole networks: `--fast` does not even
# read them.
THOROUGH = (
    *("benchmarks", "deploy", "e2e", "full", "networks", "recipes"),
    *("engine/cpu", "engine/cuda", "engine/generation"),
    *("engine/test_artifact.py", "engine/test_heads.py", "engine/test_isolate.py"),
    *("engine/test_bound_kernels.py", "engine/test_elementwise_conformance.py"),
    *("engine/frontend/test_fuzz.py", "engine/frontend/test_hostile.py"),
    "engine/ops/test_backend_nodes.py",
    *("engine/passes/test_equivalence.py", "engine/passes/test_passes.py"),
    *("engine/passes/test_rewired.py", "engine/passes/test_volume_convolution.py"),
    *("server/index/embedded", "server/index/postgres", "server/index/search/test_lists.py"),
    *("server/learning", "server/repository", "server/routes", "server/similarity"),
    *("server/batching/test_policy.py", "server/batching/test_steps.py"),
    *("server/test_commands.py", "server/test_early_answers.py", "server/text/test_documents.py"),
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Know `--fast`."""
    parser.addoption("--fast", action="store_true", help="leave out files that take long")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out files that take long, where that is asked for."""
    fast = config.getoption("--fast")
    is_long = any(collection_path == HERE / part for part in THOROUGH)
    return True if fast and is_long else None


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
