"""`engine.load`: from a source to a model, compiled in this process or in a child."""

from __future__ import annotations

import gc
import logging
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from engine.artifact import Artifact, map_artifact, read_plan
from engine.artifact_cache import ArtifactCache, Key
from engine.artifact_compiler import compile_to_file
from engine.choosing import DEFAULT_BOUND, Bound, choose
from engine.compiler import (
    EXACT,
    INT8,
    STORED_INT8,
    CompileRequest,
    Outputs,
    Source,
    compile_model,
)
from engine.device import CompileOptions, Device, Plan, StoringDevice, get_device
from engine.errors import InvalidModel
from engine.ir.graph import Array
from engine.isolate import ChildBudget, run_child
from engine.limits import Deadline, Limits
from engine.ops.registry import REGISTRY, Operator
from engine.request_json import write_request
from engine.session import Model

_log = logging.getLogger(__name__)
DEFAULT_LIMITS = Limits()
PRECISIONS = ("fp32", "bf16", "fp16", "int8", "auto")


def load(
    source: Source,
    *,
    device: str = "cpu",
    precision: str = "fp32",
    threads: int | None = None,
    outputs: Outputs = None,
    keep: Sequence[str] = (),
    ops: Sequence[Operator] = (),
    limits: Limits = DEFAULT_LIMITS,
    isolate: bool = False,
    cache_dir: str | os.PathLike[str] | None = None,
    samples: Sequence[Mapping[str, Array]] = (),
    bound: Bound = DEFAULT_BOUND,
) -> Model:
    """Load an ONNX model and make it ready to run.

    Args:
        source: Path of a model file, or its bytes (then without external data).
        device: "cpu", "cuda" or "reference" (portable definitions over numpy).
        precision: "fp32"; another one that the device offers, such as "bf16" or "int8"; or "auto",
            the fastest whose outputs on `samples` lie within `bound` of fp32's.
        threads: Cores that one run may use; None leaves it to the device.
        outputs: Named values to keep, by default the graph's outputs; `engine.ALL` keeps every
            value, unoptimised.
        keep: Named values to keep beside those: `run` gives them when `fetches` asks for them.
        ops: Operators of your own, beside or instead of the engine's.
        limits: Bounds on loading and running.
        isolate: Parse and compile in a child process with limits of its own.
        cache_dir: Folder that keeps compiled models; the same source, options and compiler load
            from it. None keeps none. (Machine code of kernels is always kept for the user.)
        samples: Typical inputs, for "auto"; without any, that is fp32.
        bound: How far each value of the outputs may move, for "auto".

    Raises:
        InvalidModel: The file is malformed; `UnsupportedOp` when it needs an operator we lack.
        ResourceLimit: Loading needs more than `limits` allow.
        DeviceUnavailable: The device, or the precision on it, does not exist here.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision {precision!r}; expected one of {PRECISIONS}")
    if ops and isolate:
        raise ValueError("operators of your own cannot be handed to a child: use isolate=False")
    registry = REGISTRY.extended(ops) if ops else REGISTRY
    request = CompileRequest(outputs=outputs, keep=tuple(keep), limits=limits, registry=registry)
    options = CompileOptions(limits=limits, operators=registry, threads=threads)
    place = Placement(device, isolate, cache_dir)

    def load_in(how: str) -> Model:
        return load_request(source, *in_precision(how, request, options), place)

    return choose(load_in, samples, bound) if precision == "auto" else load_in(precision)


def in_precision(
    precision: str, request: CompileRequest, options: CompileOptions
) -> tuple[CompileRequest, CompileOptions]:
    """Return what the compiler and the device are told to compute in a precision."""
    is_int8 = precision in (INT8, STORED_INT8)
    return (
        replace(request, precision=precision if is_int8 else EXACT),
        replace(options, precision=INT8 if is_int8 else precision),
    )


@dataclass(frozen=True)
class Placement:
    """Where a model runs, where it is compiled, and which folder keeps it compiled."""

    device: str = "cpu"
    isolate: bool = False
    cache_dir: str | os.PathLike[str] | None = None


def load_request(
    source: Source, request: CompileRequest, options: CompileOptions, place: Placement
) -> Model:
    """Load what a request makes of a source; `load` in other words."""
    target = get_device(place.device)  # a missing one is told before anything is compiled
    registry, cache_dir = request.registry, place.cache_dir
    task = _Task(source, request, target, options, place.isolate)
    if registry is not REGISTRY or not (cache_dir or place.isolate):
        artifact, plan = task.in_memory()
    elif cache_dir is None:
        with tempfile.TemporaryDirectory(prefix="millrace-") as folder:
            path = Path(folder) / "artifact"
            task.write(path)
            artifact, plan = task.read(path)  # the mapping outlives the file
    else:
        artifact, plan = _cached(task, ArtifactCache(Path(cache_dir)))
    model = Model(artifact, plan, target.name, registry)
    model.precision = EXACT if options.precision == "auto" else options.precision
    return model


def model_from_artifact(
    artifact: Artifact, device: str, limits: Limits = DEFAULT_LIMITS, *, precision: str = EXACT
) -> Model:
    """Make a compiled artifact ready to run."""
    target, options = get_device(device), CompileOptions(limits, precision=precision)
    return Model(*_made_ready(artifact, target, options), target.name)


@dataclass(frozen=True)
class _Task:
    """One model to be loaded."""

    source: Source
    request: CompileRequest
    target: Device
    options: CompileOptions
    isolate: bool

    @property
    def device(self) -> str:
        """Name of the device that stores what it makes of this model, or ""."""
        return self.target.name if isinstance(self.target, StoringDevice) else ""

    @property
    def folder(self) -> Path:
        """Where external data lies; a model given as bytes has none."""
        if isinstance(self.source, (bytes, bytearray, memoryview)):
            return Path()
        return Path(self.source).parent

    def in_memory(self) -> tuple[Artifact, Plan]:
        """Compile in this process; nothing is written."""
        deadline = Deadline(self.request.limits.load_s)
        artifact = compile_model(self.source, self.request, deadline=deadline)
        return _made_ready(artifact, self.target, replace(self.options, deadline=deadline))

    def write(self, path: Path) -> None:
        """Compile into a new file, in a child if asked."""
        if self.isolate:
            self._write_in_child(path)
        else:
            compile_to_file(self.source, path, self.request, self.device, self.options)

    def read(self, path: Path) -> tuple[Artifact, Plan]:
        """Return what such a file holds; `InvalidModel` where that is of no use."""
        with _uncollected():
            return _made_ready(map_artifact(path), self.target, self.options)

    def key(self, cache: ArtifactCache) -> Key:
        """Return what the model is called in a cache."""
        device = ""
        if isinstance(self.target, StoringDevice):
            device = self.target.fingerprint(self.options)
        return cache.key(self.source, write_request(self.request), self.options.limits, device)

    def _write_in_child(self, path: Path) -> None:
        budget = ChildBudget.of_machine(self.request.limits.load_s)
        order = {
            **write_request(self.request),
            "device": self.device,
            "device_precision": self.options.precision,
        }
        if not isinstance(self.source, (bytes, bytearray, memoryview)):
            run_child(Path(self.source).absolute(), path, order, budget)
            return
        with tempfile.TemporaryDirectory(prefix="millrace-") as folder:
            model = Path(folder) / "model.onnx"
            model.write_bytes(self.source)
            run_child(model, path, order, budget)


@contextmanager
def _uncollected() -> Iterator[None]:
    """Keep the garbage collector from looking through a young process again and again: it takes
    longer than reading an artifact does, which makes no garbage in circles.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def _cached(task: _Task, cache: ArtifactCache) -> tuple[Artifact, Plan]:
    """Find what an earlier call compiled, or compile and keep it."""
    key, limits = task.key(cache), task.options.limits
    found = cache.find(key, task.read)
    if found is None and (beside := cache.beside(key, task.folder, limits)) is not None:
        found = cache.find(beside, task.read)
    if found is not None:
        return found
    with cache.new_file() as path:
        try:
            task.write(path)
        except OSError as error:  # such as a full disk: no reason not to serve
            _log.warning("a compiled model cannot be kept: %s", error)
            return task.in_memory()
        artifact, plan = task.read(path)
        final: Key | None = key  # of the source as it was before; other files are known only now
        if artifact.external:
            final = cache.note_beside(key, task.folder, artifact.external, limits)
        if final is not None and key.still_holds(lambda: task.key(cache)):
            cache.keep(path, final)
    return artifact, plan


def _made_ready(
    artifact: Artifact, target: Device, options: CompileOptions
) -> tuple[Artifact, Plan]:
    """Return the plan of an artifact, and the artifact without what the plan does not need."""
    if artifact.plan is not None:
        if not isinstance(target, StoringDevice):
            raise InvalidModel(
                f"the artifact was compiled for device {artifact.plan.device!r}; "
                f"compile it again for {target.name!r}"
            )
        return artifact, read_plan(artifact, target, options)
    plan = target.compile(artifact.graph, options)
    return (artifact.light if isinstance(target, StoringDevice) else artifact), plan
