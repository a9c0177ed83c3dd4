"""Compiles in a child process, so that a serving process never parses a model file.

The child is niced, limits its own memory and CPU time before it opens the file, inherits no
descriptors and no MILLRACE_* variables (tokens) but those that tell what to compile and where to
keep it, and is killed with its group when the wall clock runs out. It writes one artifact; errors
come back as JSON naming a class of `engine.errors`. Nothing the child writes is trusted: the
artifact is checked like any other, and of the error text only known classes are rebuilt.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import engine.errors as tree
from engine.errors import EngineError, InvalidModel, ResourceLimit
from engine.limits import GIB, container_memory_bytes

NICE = 10
ADDRESS_SLACK_BYTES = 2 * GIB  # what the interpreter and its libraries reserve without using
# Where machine code is kept, and whether it uses tiles: the same for parent and child.
PASSED_ON = ("MILLRACE_CACHE_DIR", "MILLRACE_AMX")
REPORT_BYTES = 1 << 20
PACKAGE_ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class ChildBudget:
    """What a compiling child may use.

    Attributes:
        wall_s: Seconds after which the parent kills it.
        memory_bytes: Address space beyond what the interpreter needs anyway.
    """

    wall_s: float
    memory_bytes: int

    @classmethod
    def of_machine(cls, wall_s: float) -> ChildBudget:
        """Return the default: half of the container's memory."""
        return cls(wall_s, container_memory_bytes() // 2)


def run_child(
    source: Path, artifact: Path, request: Mapping[str, Any], budget: ChildBudget
) -> None:
    """Compile `source` into `artifact` in a child process, or raise the error it met."""
    body = json.dumps({**request, "memory_bytes": budget.memory_bytes, "cpu_s": budget.wall_s})
    command = [sys.executable, "-P", "-m", "engine", "compile", str(source), "-o", str(artifact)]
    child = subprocess.Popen(
        [*command, "--isolated"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd="/",
        env=child_environment(),
        close_fds=True,
        start_new_session=True,
    )
    try:
        report, _ = child.communicate(body.encode(), timeout=budget.wall_s)
    except subprocess.TimeoutExpired:
        raise ResourceLimit(
            f"compiling {source.name}",
            f"more than {budget.wall_s:g} s",
            f"load_s={budget.wall_s:g}",
        ) from None
    finally:
        end_child(child)
    if child.returncode != 0:
        raise child_error(report, child.returncode, source.name, budget)


def child_error(report: bytes, code: int, name: str, budget: ChildBudget) -> EngineError:
    """Turn what a failed child left behind into the error to raise."""
    if code == -signal.SIGXCPU:
        return ResourceLimit(f"compiling {name}", "more CPU time", f"load_s={budget.wall_s:g}")
    if code == -signal.SIGKILL:
        return ResourceLimit(
            f"compiling {name}", "more memory than there is", f"{budget.memory_bytes} bytes"
        )
    if code < 0:
        return InvalidModel(
            f"compiling {name} ended with {signal.Signals(-code).name}; the file is not usable"
        )
    return error_from_json(report[:REPORT_BYTES]) or InvalidModel(
        f"compiling {name} failed with exit status {code} and no reason"
    )


def enter_limits(memory_bytes: int, cpu_s: float) -> None:
    """Called by the child before it opens the file: bind itself."""
    os.nice(NICE)
    _bound(resource.RLIMIT_AS, memory_bytes + ADDRESS_SLACK_BYTES)
    _bound(resource.RLIMIT_CPU, max(1, round(cpu_s)))
    _bound(resource.RLIMIT_CORE, 0)


def failure_of(work: Callable[[], None], what: str, memory_bytes: int) -> EngineError | None:
    """Do the work of a child; return what its parent is told went wrong, None where nothing did.

    `what` names the work.
    """
    try:
        work()
    except EngineError as error:
        return error
    except MemoryError:
        return ResourceLimit(what, "more memory", f"{memory_bytes} bytes")
    except OSError as error:  # a full disk, or a folder gone: not the model's fault
        return ResourceLimit(what, error, "the disk there is")
    except Exception as error:  # a fault of ours on this file: the file is not usable either way
        return InvalidModel(f"compiling failed: {type(error).__name__}: {error}")
    return None


def error_to_json(error: EngineError) -> bytes:
    """Return an error as one line of JSON: its class and the arguments that rebuild it."""
    arguments = error.__reduce__()[1]
    plain = [item if isinstance(item, (str, int, float)) else str(item) for item in arguments]
    return json.dumps({"error": type(error).__name__, "arguments": plain}).encode()


def error_from_json(text: bytes) -> EngineError | None:
    """Rebuild an error, or return None when the text names no class of the tree."""
    try:
        report = json.loads(text)
        kind = getattr(tree, report["error"], None)
        if isinstance(kind, type) and issubclass(kind, EngineError):
            return kind(*report["arguments"])
    except (ValueError, KeyError, TypeError):
        return None
    return None


def child_environment() -> dict[str, str]:
    """Return what a compiling child is to know of ours."""
    kept = {
        key: value
        for key, value in os.environ.items()
        if key in PASSED_ON or not key.startswith("MILLRACE_")
    }
    paths = [str(PACKAGE_ROOT), kept.get("PYTHONPATH", "")]
    # One thread: a BLAS pool would cost start-up time and address space and gain nothing here.
    return {**kept, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "OPENBLAS_NUM_THREADS": "1"}


def _bound(which: int, value: int) -> None:
    _, hard = resource.getrlimit(which)
    ceiling = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(which, (ceiling, ceiling))


def end_child(child: subprocess.Popen[bytes]) -> None:
    """Leave nothing running and nothing to reap, whatever happened."""
    if child.poll() is None:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
    for pipe in (child.stdin, child.stdout):
        if pipe is not None:
            pipe.close()
