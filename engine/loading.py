"""`engine.load`: from a source to a model, compiled in this process or in a child."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from engine.artifact import Artifact, map_artifact, write_artifact
from engine.artifact_cache import ArtifactCache, cache_key
from engine.compiler import CompileRequest, Outputs, Source, compile_model
from engine.device import CompileOptions, get_device
from engine.isolate import ChildBudget, run_child
from engine.limits import Limits
from engine.ops.registry import REGISTRY, Operator
from engine.request_json import write_request
from engine.session import Model

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
    cache_dir: Path | None = None,
) -> Model:
    """Load an ONNX model and make it ready to run.

    Args:
        source: Path of a model file, or its bytes (then without external data).
        device: "cpu", "cuda" or "reference" (portable definitions over numpy).
        precision: "fp32", or another one that the device offers.
        threads: Cores that one run may use; None leaves it to the device.
        outputs: Named values to keep, by default the graph's outputs; `engine.ALL` keeps every
            value, unoptimised.
        keep: Named values to keep beside those: `run` gives them when `fetches` asks for them.
        ops: Operators of your own, beside or instead of the engine's.
        limits: Bounds on loading and running.
        isolate: Parse and compile in a child process with limits of its own.
        cache_dir: Folder that keeps artifacts; the same source, options and compiler load from it.

    Raises:
        InvalidModel: The file is malformed; `UnsupportedOp` when it needs an operator we lack.
        ResourceLimit: Loading needs more than `limits` allow.
        DeviceUnavailable: The device, or the precision on it, does not exist here.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision {precision!r}; expected one of {PRECISIONS}")
    if ops and isolate:
        raise ValueError("operators of your own cannot be handed to a child: use isolate=False")
    target = get_device(device)  # first: a missing device is told before anything is compiled
    registry = REGISTRY.extended(ops) if ops else REGISTRY
    request = CompileRequest(outputs=outputs, keep=tuple(keep), limits=limits, registry=registry)
    artifact = _artifact(source, request, isolate, None if ops else cache_dir)
    options = CompileOptions(
        limits=limits, operators=registry, precision=precision, threads=threads
    )
    return Model(artifact, target.compile(artifact.graph, options), target.name, registry)


def model_from_artifact(artifact: Artifact, device: str, limits: Limits = DEFAULT_LIMITS) -> Model:
    """Make a compiled artifact ready to run."""
    target = get_device(device)
    return Model(artifact, target.compile(artifact.graph, CompileOptions(limits)), target.name)


def _artifact(
    source: Source, request: CompileRequest, isolate: bool, cache_dir: Path | None
) -> Artifact:
    """Compile, or find what an earlier call compiled."""
    if cache_dir is None:
        return _isolated(source, request) if isolate else compile_model(source, request)
    cache = ArtifactCache(Path(cache_dir))
    limits = request.limits
    key = cache_key(source, write_request(request), limits)
    found = cache.find(key)
    if found is not None:
        return found
    with cache.new_file() as path:
        if isolate:
            _compile_in_child(source, request, path)
        else:
            write_artifact(compile_model(source, request), path)
        artifact = map_artifact(path)
        # The key covers no other files than the model's own, and that one as it was before.
        if not artifact.external and cache_key(source, write_request(request), limits) == key:
            cache.keep(path, key)
    return artifact


def _isolated(source: Source, request: CompileRequest) -> Artifact:
    with tempfile.TemporaryDirectory(prefix="millrace-") as folder:
        path = Path(folder) / "artifact"
        _compile_in_child(source, request, path)
        return map_artifact(path)  # the mapping outlives the file


def _compile_in_child(source: Source, request: CompileRequest, artifact: Path) -> None:
    budget = ChildBudget.of_machine(request.limits.load_s)
    if not isinstance(source, (bytes, bytearray, memoryview)):
        run_child(Path(source).absolute(), artifact, write_request(request), budget)
        return
    with tempfile.TemporaryDirectory(prefix="millrace-") as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(source)
        run_child(path, artifact, write_request(request), budget)
