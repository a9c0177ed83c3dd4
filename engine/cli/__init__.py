"""`python -m engine inspect | compile | run | profile | diff`: the compiler by hand.

Exit status: 0 done, 1 the model, its inputs or a file are at fault (one line on stderr), 2 wrong
usage, 3 `diff` found a difference.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from engine.cli.diff import add_diff
from engine.cli.inspect import add_inspect
from engine.cli.running import add_compile, add_profile, add_run
from engine.errors import EngineError

DONE, FAILED = 0, 1


def main(arguments: Sequence[str]) -> int:
    """Run one command; return the exit status."""
    options = _parser().parse_args(arguments)
    try:
        status: int | None = options.run(options)
    except EngineError as error:
        sys.stderr.write(f"{type(error).__name__}: {' '.join(str(error).split())}\n")
        return FAILED
    except OSError as error:  # of files to write; those to read are checked where they are read
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        return FAILED
    return DONE if status is None else status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m engine", description=__doc__)
    commands: Any = parser.add_subparsers(required=True, metavar="COMMAND")
    for add in (add_inspect, add_compile, add_run, add_profile, add_diff):
        add(commands)
    return parser
