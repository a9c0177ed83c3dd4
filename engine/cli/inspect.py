"""`python -m engine inspect`: what a model is."""

from __future__ import annotations

import argparse
from typing import Any

from engine.cli.options import add_compile_options, command, kept_values
from engine.cli.tables import console, number_text, plain, table
from engine.compiler import CompileRequest, compile_model
from engine.description import Description, describe
from engine.loading import model_from_artifact
from engine.session import Model, TensorSpec


def add_inspect(commands: Any) -> None:
    """Add the command."""
    parser = command(commands, "inspect", inspect_model)
    parser.add_argument("--summary", action="store_true", help="totals only, without the nodes")
    add_compile_options(parser)


def inspect_model(options: argparse.Namespace) -> None:
    """Print what a model is: every node's shapes, parameters and arithmetic, and the totals."""
    request = CompileRequest(outputs=kept_values(options), level=options.level)
    artifact = compile_model(options.model, request)
    model = model_from_artifact(artifact, "reference")
    found = describe(artifact)
    out = console()
    about = " ".join(model.metadata.get(f"producer_{key}", "") for key in ("name", "version"))
    out.print(f"{model.name or options.model.name}  {about}", markup=False, style="bold")
    out.print(_values_table(model))
    if not options.summary:
        out.print(_nodes_table(found))
    out.print(
        f"{len(found.nodes)} nodes, {found.parameters:,} parameters, "
        f"{found.weights_bytes / 1e6:.2f} MB of weights, {number_text(found.flops)} FLOP a run"
    )
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


def _nodes_table(found: Description) -> Any:
    made = table("node", "op", "outputs", "parameters", "FLOP")
    for node in found.nodes:
        made.add_row(
            plain(node.name),
            node.op,
            plain("\n".join(node.outputs)),
            f"{node.parameters:,}",
            "" if node.flops is None else number_text(node.flops),
        )
    made.add_section()
    made.add_row("total", "", "", f"{found.parameters:,}", number_text(found.flops), style="bold")
    return made


def _shape_text(spec: TensorSpec) -> str:
    return "unknown" if spec.shape is None else " x ".join(map(str, spec.shape)) or "scalar"
