"""`python -m engine diff`: the first node where two ways of running a model differ."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Mapping
from functools import partial
from math import isnan
from typing import Any

import numpy as np

from engine.cli.options import add_feed_options, command, level, read_feeds
from engine.cli.tables import console, plain, table
from engine.comparison import (
    ATOL,
    RTOL,
    Comparison,
    Difference,
    Side,
    Tolerance,
    compare_sides,
    run_side,
    with_every_value,
)
from engine.compiler import CompileRequest, compile_model
from engine.errors import DeviceUnavailable, InvalidInput, RunFailed
from engine.frontend.safety import read_model_file
from engine.limits import Limits
from engine.loading import model_from_artifact
from engine.session import Model

DIFFERENT = 3  # exit status
# By name: it loads the ONNX parser, which other commands may do without.
EXPOSER = "engine.frontend.exposing"
DEFAULT_SIDES = (("reference", 0), ("cpu", 2))
OTHERS = ("onnxruntime",)


def add_diff(commands: Any) -> None:
    """Add the command."""
    parser = command(commands, "diff", diff_model)
    parser.add_argument("--device", action="append", default=[], help="of the first and second run")
    parser.add_argument("--level", action="append", default=[], type=level, help="O0, O1 or O2")
    parser.add_argument("--against", choices=OTHERS, help="another runtime as the second run")
    parser.add_argument("--rtol", type=float, default=RTOL, help="of a tensor's largest magnitude")
    parser.add_argument("--atol", type=float, default=ATOL)
    parser.add_argument("--top", type=int, default=10, help="differing values to list")
    add_feed_options(parser)


def diff_model(options: argparse.Namespace) -> int:
    """Run a model two ways and find the first node whose values differ, and by how much."""
    sides = _sides(options)
    models = [_load(options, device, at) for device, at in sides]
    feeds = read_feeds(options, models[0])
    runs = [
        run_side(f"{device} O{at}", model, feeds)
        for (device, at), model in zip(sides, models, strict=True)
    ]
    if options.against is not None:
        runs.append(_run_onnxruntime(options, feeds))
    left, right = runs
    found = compare_sides(left, right, Tolerance(options.rtol, options.atol))
    _print(found, left.label, right.label, options.top)
    return DIFFERENT if found.first is not None else 0


def _sides(options: argparse.Namespace) -> list[tuple[str, int]]:
    """Return device and level of our own runs: two, or one beside another runtime."""
    devices, levels = options.device, options.level
    if max(len(devices), len(levels)) > (1 if options.against else 2):
        raise InvalidInput(
            "diff compares two runs: give --device or --level at most twice, and once "
            "where --against is the second run"
        )
    if options.against is not None:
        return [(devices[0] if devices else "cpu", levels[0] if levels else 2)]
    if not devices and not levels:
        return list(DEFAULT_SIDES)
    pick = partial(_pick, count=2)
    return list(zip(pick(devices, "cpu"), pick(levels, 2), strict=True))


def _pick(given: list[Any], default: Any, count: int) -> list[Any]:
    """Return one entry per run: what is given once holds for all."""
    return (given * count)[:count] if len(given) == 1 else given or [default] * count


def _load(options: argparse.Namespace, device: str, at: int) -> Model:
    artifact = compile_model(options.model, CompileRequest(level=at))
    return model_from_artifact(with_every_value(artifact), device)


def _run_onnxruntime(options: argparse.Namespace, feeds: Mapping[str, np.ndarray]) -> Side:
    """Run ONNX Runtime, unoptimised, with every value of the main graph as an output."""
    try:
        # By name: it is a tool for comparing, never something that the engine needs.
        runtime = importlib.import_module("onnxruntime")
    except ImportError as error:
        raise DeviceUnavailable(f"--against onnxruntime: it is not installed: {error}") from error
    settings = runtime.SessionOptions()
    settings.log_severity_level = 4
    settings.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    settings.add_session_config_entry(
        "session.model_external_initializers_file_folder_path", str(options.model.parent)
    )
    expose = importlib.import_module(EXPOSER).expose_values
    model = expose(read_model_file(options.model, Limits().model_bytes))
    try:
        session = runtime.InferenceSession(model, settings, providers=["CPUExecutionProvider"])
        results = session.run(None, dict(feeds))
    except Exception as error:  # its errors have no common class but this
        reason = " ".join(str(error).split())[:300]
        raise RunFailed(options.model.name, "onnxruntime", reason) from error
    names = [value.name for value in session.get_outputs()]
    return Side("onnxruntime", {**dict(zip(names, results, strict=True)), **feeds})


def _print(found: Comparison, left: str, right: str, top: int) -> None:
    out = console()
    first = found.first
    if first is None:
        out.print(f"{found.compared} values agree: {left} and {right}", markup=False)
        return
    out.print(f"{left} and {right} first differ at node {first.node!r} ({first.op}),", markup=False)
    out.print(f"value {first.value!r}: {first.reason}", markup=False)
    for name, apart in first.inputs.items():
        out.print(f"  its input {name!r} differs by {apart:.3g}", markup=False)
    count = len(found.differences)
    out.print(f"{count} of {found.compared} shared values differ")
    made = table("value", "node", "op", "largest difference")
    for each in found.differences[:top]:
        made.add_row(plain(each.value), plain(each.node), each.op, _largest(each))
    out.print(made)


def _largest(each: Difference) -> str:
    return each.reason if isnan(each.largest) else f"{each.largest:.3g}"
