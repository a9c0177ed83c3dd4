"""The locks against pyproject.toml, and the commands that everything starts from."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from scripts.lock import LOCKS, closure, declared
from tests.conftest import THOROUGH

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def pins(name: str) -> dict[str, str]:
    lines = (ROOT / "requirements" / name).read_text().splitlines()
    entries = [line.split("==") for line in lines if not line.startswith("#")]
    return dict(entries)


@pytest.mark.parametrize("name", LOCKS)
def test_the_lock_pins_what_is_declared(name):
    pinned = pins(name)
    for requirement in declared(LOCKS[name]):
        assert requirement.specifier.contains(pinned[canonicalize_name(requirement.name)]), name


@pytest.mark.parametrize("name", LOCKS)
def test_the_lock_holds_pins_and_nothing_else(name):
    for package, version in pins(name).items():
        assert package == canonicalize_name(package)
        assert version[0].isdigit()


@pytest.mark.parametrize("name", LOCKS)
def test_the_lock_is_complete(name):
    assert set(closure(declared(LOCKS[name]))) <= set(pins(name)), "run `make lock`"


def test_the_locks_agree():
    assert pins("core.txt").items() <= pins("serve.txt").items() <= pins("dev.txt").items()


def test_what_the_fast_tests_leave_out_is_there():
    assert [part for part in THOROUGH if not (ROOT / "tests" / part).exists()] == []


def test_what_runs_is_free_of_onnxruntime_and_torch():
    assert not {"onnxruntime", "torch", "tritonclient", "pytest"} & set(pins("serve.txt"))


def test_the_extras_are_requirements():
    for lines in PROJECT["optional-dependencies"].values():
        for line in lines:
            assert Requirement(line).name


def phony_targets() -> list[str]:
    line = re.search(r"^\.PHONY:(.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert line
    return line[1].split()


@pytest.mark.parametrize("target", sorted({*phony_targets()} - {"help", "image", "clean"}))
def test_make_knows_the_target(target):
    done = make("--dry-run", target)
    assert done.returncode == 0, done.stderr
    assert ".venv" in done.stdout and "/bin/" in done.stdout
    assert any(line.split()[0] == target for line in make().stdout.splitlines())


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run make as from a shell, also when the tests were started by make."""
    environment = {k: v for k, v in os.environ.items() if k not in ("MAKELEVEL", "MAKEFLAGS")}
    return subprocess.run(
        ["make", *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_continuous_integration_runs_the_gate():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert "make test" in script.read_text()


def test_the_licence_is_apache_2():
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License" in text and "Version 2.0, January 2004" in text
    assert "END OF TERMS AND CONDITIONS" in text
    assert PROJECT["license"] == "Apache-2.0"


def test_the_command_is_there():
    done = subprocess.run(
        [sys.executable, "-m", "server", "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    for command in ("serve", "push", "models", "predict", "check", "profile"):
        assert command in done.stdout
