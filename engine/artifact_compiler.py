"""From a model to an artifact's file, in whichever process."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from engine.artifact import Artifact, write_artifact, write_plan
from engine.compiler import CompileRequest, Source, compile_model
from engine.device import CompileOptions, StoringDevice, get_device
from engine.limits import Deadline
from engine.passes.pipeline import Watcher


def compile_to_file(
    source: Source,
    path: Path,
    request: CompileRequest,
    device: str,
    options: CompileOptions,
    *,
    watch: Watcher | None = None,
) -> Artifact:
    """Compile a model into a new file: for a device that stores what it makes, or for any.

    Args:
        source: Path or bytes of the model.
        path: The artifact, which must not exist.
        request: How to compile.
        device: Name of the device; one that stores nothing, or "", gives an artifact for any.
        options: What the device is told.
        watch: Is shown the graph after the import and each pass.

    Returns:
        The artifact as it was before the device took it up.
    """
    deadline = Deadline(request.limits.load_s)
    artifact = compile_model(source, request, watch=watch, deadline=deadline)
    target = get_device(device) if device else None
    if isinstance(target, StoringDevice):
        write_plan(artifact, target, replace(options, deadline=deadline), path)
    else:
        write_artifact(artifact, path)
    return artifact
