"""`python -m engine inspect`: what a model is."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from engine.cli.inspect_folder import inspect_folder
from engine.cli.options import add_compile_options, command, compiler_told
from engine.cli.tables import console, number_text, plain, table
from engine.compiler import compile_model
from engine.description import Description, describe
from engine.device import CompileOptions, get_device
from engine.ir.graph import Graph
from engine.loading import model_from_artifact
from engine.session import Model, TensorSpec


def add_inspect(commands: Any) -> None:
    """Add the command."""
    parser = command(commands, "inspect", inspect_model)
    parser.add_argument("--summary", action="store_true", help="totals only, without the nodes")
    parser.add_argument(
        "--native", action="store_true", help="say which nodes become native code on the cpu"
    )
    add_compile_options(parser)


def inspect_model(options: argparse.Namespace) -> None:
    """Print what a model is: every node's shapes, parameters and arithmetic, and the totals. Of a
    folder with an encoder and a decoder: what each part is and what was recognised.
    """
    if options.model.is_dir():
        inspect_folder(options.model, native=options.native)
        return
    request, _ = compiler_told(options)
    artifact = compile_model(options.model, request)
    model = model_from_artifact(artifact, "reference")
    found = describe(artifact)
    native = _native_reasons(artifact.graph) if options.native else None
    out = console()
    about = " ".join(model.metadata.get(f"producer_{key}", "") for key in ("name", "version"))
    out.print(f"{model.name or options.model.name}  {about}", markup=False, style="bold")
    out.print(_values_table(model))
    if not options.summary:
        out.print(_nodes_table(found, native))
    out.print(
        f"{len(found.nodes)} nodes, {found.parameters:,} parameters, "
        f"{found.weights_bytes / 1e6:.2f} MB of weights, {number_text(found.flops)} FLOP a run"
    )
    if native is not None:
        out.print(_native_summary(native), markup=False)
    if model.batch is not None:
        rows = f"inputs {sorted(model.batch.inputs)}, outputs {sorted(model.batch.outputs)}"
        out.print(f"batch: {rows}", markup=False)
    else:
        out.print(f"batch: none, {model.batch_reason}", markup=False)


def _values_table(model: Model) -> Any:
    made = table("value", "type", "shape")
    for kind, specs in (("input", model.inputs), ("output", model.outputs)):
        for spec in specs:
            name = spec.dtype if spec.kind == "tensor" else spec.kind
            made.add_row(plain(f"{kind} {spec.name}"), plain(name), plain(_shape_text(spec)))
    return made


def _native_reasons(graph: Graph) -> dict[str, tuple[str, str | None]]:
    """Return operator and reason per node that is needed; None is a node of native code."""
    cpu: Any = get_device("cpu")
    found = cpu.coverage(graph, CompileOptions())
    return {each.node.label: (each.node.op, each.reason) for each in found}


def _native_summary(native: Mapping[str, tuple[str, str | None]]) -> str:
    portable = [f"{op} {name!r} ({why})" for name, (op, why) in native.items() if why is not None]
    text = f"native: {len(native) - len(portable)} of {len(native)} nodes that are needed"
    return text + "".join(f"\n  portable: {each}" for each in portable)


def _nodes_table(
    found: Description, native: Mapping[str, tuple[str, str | None]] | None = None
) -> Any:
    more = () if native is None else ("native",)
    made = table("node", "op", "outputs", "parameters", "FLOP", *more)
    for node in found.nodes:
        made.add_row(
            plain(node.name),
            node.op,
            plain("\n".join(node.outputs)),
            f"{node.parameters:,}",
            "" if node.flops is None else number_text(node.flops),
            *([] if native is None else [_native_mark(native, node.name)]),
        )
    made.add_section()
    made.add_row("total", "", "", f"{found.parameters:,}", number_text(found.flops), style="bold")
    return made


def _native_mark(native: Mapping[str, tuple[str, str | None]], name: str) -> str:
    if name not in native:
        return "not needed"
    return "yes" if native[name][1] is None else "no"


def _shape_text(spec: TensorSpec) -> str:
    return "unknown" if spec.shape is None else " x ".join(map(str, spec.shape)) or "scalar"
