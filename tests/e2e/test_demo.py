"""`make demo`, whole, on the models that ship; fewer requests than by hand."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.e2e


def test_the_demo_gets_right_answers_and_swaps_without_a_failed_request():
    done = subprocess.run(
        [sys.executable, "-m", "demo", "--requests", "300", "--concurrency", "8"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=590,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "All answers right, no request failed." in done.stdout


def test_without_the_models_it_says_what_is_missing(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "demo", "--repository", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=590,
    )
    assert done.returncode == 1
    assert "digits/1 is missing" in done.stderr
