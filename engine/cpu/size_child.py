"""Compiles a model for given sizes of pictures in a child process, while this one serves.

The child (`engine.cpu.size_worker`) has the model's compiled file open, and does everything but
what only this process can: taking in packed weights that no plan had yet, linking the machine
code, binding. One child works at a time, whatever number of models waits for theirs. It has the
limits of other compiling children, and is killed when its time is over or its model goes.
"""

from __future__ import annotations

import subprocess
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from engine.container import Container, map_container
from engine.cpu.beside import Beside
from engine.cpu.compile_worker import command_of
from engine.cpu.compiled import CompiledGraph
from engine.cpu.native_artifact import Contents, fingerprint, read_native
from engine.cpu.size_order import ANSWER, REPORT, SizeOrder
from engine.cpu.target import Target
from engine.cpu.weight_store import Held
from engine.errors import InvalidModel, ResourceLimit, RunCancelled
from engine.isolate import ChildBudget, child_environment, child_error, end_child
from engine.limits import Deadline, Limits

AT_ONCE: Final = 1  # children of this process, all models together
LOOK_S: Final = 0.05  # how often it is looked whether a child is done
MODULE: Final = "engine.cpu.size_worker"

_changed = threading.Condition()
_at_work: set[object] = set()


@dataclass(eq=False)
class SizeChildren:
    """Compiles one model for sizes, one after the other, in a child each.

    Attributes:
        blobs: The model's compiled file, mapped.
        descriptor: The same file, open as long as the blobs are held.
        whole: The blob that describes the graph with its fixed values.
        beside: What the plans share.
        target: The processor.
        precision: How contractions may compute.
        limits: Bounds on compiling, and on the plan.
        threads: Cores that a run may use.
    """

    blobs: Sequence[memoryview]
    descriptor: int
    whole: int
    beside: Beside
    target: Target
    precision: str
    limits: Limits
    threads: int
    _cancelled: threading.Event = field(default_factory=threading.Event, init=False)

    def compile(self, sizes: Mapping[str, int]) -> CompiledGraph:
        """Return the graph compiled for these sizes, with weights and memory of `beside`.

        Raises:
            EngineError: It cannot be compiled, or not within the limits, or the child died.
            RunCancelled: `cancel` was called.
        """
        budget = ChildBudget.of_machine(self.limits.load_s)
        known = self.beside.weights.known()  # held, so that it is still there for the answer
        order = SizeOrder(
            descriptor=self.descriptor,
            whole=self.whole,
            sizes=sizes,
            known=tuple(known),
            precision=self.precision,
            limits=self.limits,
            fingerprint=fingerprint(self.target, self.precision),
            memory_bytes=budget.memory_bytes,
        )
        with (
            self._turn(order.what),
            tempfile.TemporaryDirectory(prefix="millrace-") as name,
        ):
            folder = Path(name)
            order.write(folder)
            self._run(order, folder, budget)
            return self._taken_in(map_container(folder / ANSWER), known)

    def cancel(self) -> None:
        """Have compilations end soon, this and all later ones. May be called from any thread."""
        with _changed:
            self._cancelled.set()
            _changed.notify_all()

    @contextmanager
    def _turn(self, what: str) -> Iterator[None]:
        """Wait until few enough children are at work."""
        with _changed:
            _changed.wait_for(lambda: self._cancelled.is_set() or len(_at_work) < AT_ONCE)
            self._check(what)
            _at_work.add(self)
        try:
            yield
        finally:
            with _changed:
                _at_work.discard(self)
                _changed.notify_all()

    def _run(self, order: SizeOrder, folder: Path, budget: ChildBudget) -> None:
        """Have a child answer an order."""
        child = _start(folder, self.descriptor)
        deadline = Deadline(budget.wall_s)
        try:
            while child.poll() is None:
                self._cancelled.wait(LOOK_S)
                self._check(order.what)
                if not deadline.left_s():
                    limit = f"load_s={budget.wall_s:g}"
                    raise ResourceLimit(order.what, f"more than {budget.wall_s:g} s", limit)
        finally:
            end_child(child)
        if child.returncode:
            report = folder / REPORT
            text = report.read_bytes() if report.exists() else b""
            raise child_error(text, child.returncode, order.what, budget)

    def _check(self, what: str) -> None:
        if self._cancelled.is_set():
            raise RunCancelled(f"{what}: the model was closed")

    def _taken_in(self, answer: Container, known: Mapping[str, Held]) -> CompiledGraph:
        """Return what a child made; nothing of its file is needed any longer then."""
        data = answer.header
        try:
            contents = Contents.pooled(data, answer.blobs, known, self.beside.weights)
            return read_native(
                data,
                contents.loader(data).graph(data["typed"]),
                answer.blobs,
                target=self.target,
                limits=self.limits,
                threads=self.threads,
                contents=contents,
                lanes=self.beside.lanes,
            )
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise InvalidModel(f"the child's answer does not hold a plan: {error}") from error


def _start(folder: Path, descriptor: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [*command_of(MODULE), str(folder)],
        stdin=subprocess.PIPE,  # ends when this process does
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
        env=child_environment(),
        pass_fds=(descriptor,),
        start_new_session=True,
    )
