"""`python -m engine inspect | compile | run | profile`: the compiler by hand.

Exit status: 0 done, 1 the model or its inputs are at fault (one line on stderr), 2 wrong usage.
"""

from __future__ import annotations

import argparse
import sys
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from engine.artifact import map_artifact, write_artifact
from engine.compiler import ALL, CompileRequest, Outputs, compile_model
from engine.container import is_container
from engine.description import Description, describe
from engine.errors import EngineError, InvalidInput
from engine.ir.graph import Graph
from engine.ir.printer import print_graph
from engine.loading import load, model_from_artifact
from engine.random_feeds import random_feeds
from engine.session import Model, TensorSpec

DONE, FAILED = 0, 1


def main(arguments: Sequence[str]) -> int:
    """Run one command; return the exit status."""
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
    except EngineError as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        return FAILED
    return DONE


def inspect_model(options: argparse.Namespace) -> None:
    """Print what a model is: inputs, outputs, nodes, weights, arithmetic, batching."""
    request = CompileRequest(outputs=_outputs(options), level=options.level)
    artifact = compile_model(options.model, request)
    model = model_from_artifact(artifact, "reference")
    console = _console()
    console.print(f"[bold]{model.name or options.model.name}[/]  {_about(model.metadata)}")
    console.print(_values_table(model))
    found = describe(artifact)
    if options.nodes:
        console.print(_nodes_table(found))
    console.print(
        f"{len(found.nodes)} nodes, {found.parameters:,} parameters, "
        f"{found.weights_bytes / 1e6:.2f} MB of weights, {_flops_text(found.flops)} FLOP a run"
    )
    if model.batch is not None:
        console.print(
            f"batch: inputs {sorted(model.batch.inputs)}, outputs {sorted(model.batch.outputs)}"
        )
    else:
        console.print(f"batch: none, {model.batch_reason}", markup=False)


def compile_file(options: argparse.Namespace) -> None:
    """Compile a model into an artifact, writing the graph after every pass if asked."""
    if options.dump is not None:
        options.dump.mkdir(parents=True, exist_ok=True)
    request = CompileRequest(outputs=_outputs(options), level=options.level)
    start = time.perf_counter()
    artifact = compile_model(
        options.model, request, watch=_dumper(options.dump) if options.dump is not None else None
    )
    if options.output is not None:
        options.output.unlink(missing_ok=True)
        write_artifact(artifact, options.output)
    seconds = time.perf_counter() - start
    _console().print(f"{len(artifact.graph.nodes)} nodes after {seconds:.2f} s")


def run_model(options: argparse.Namespace) -> None:
    """Run a model once on an .npz file or on random inputs, and print or save the outputs."""
    with _load(options) as model:
        feeds = _feeds(options, model)
        start = time.perf_counter()
        results = model.run(feeds)
        seconds = time.perf_counter() - start
    if options.save is not None:
        arrays: dict[str, Any] = {**results}
        np.savez(options.save, **arrays)
    console = _console()
    table = _table("output", "type", "shape", "min", "mean", "max")
    for name, array in results.items():
        table.add_row(name, str(array.dtype), str(list(array.shape)), *_summary(array))
    console.print(table)
    console.print(f"{seconds * 1e3:.3f} ms on {options.device}")


def profile_model(options: argparse.Namespace) -> None:
    """Print what every node costs."""
    with _load(options) as model:
        report = model.profile(_feeds(options, model), repeat=options.repeat)
    console = _console()
    totals = _table("op", "nodes", "ms", "share")
    for op, count, seconds, share in report.by_op():
        totals.add_row(op, str(count), f"{seconds * 1e3:.3f}", f"{share:.1%}")
    nodes = _table("node", "op", "kernel", "ms", "share", "MFLOP", "GFLOP/s", "MB")
    for node in sorted(report.nodes, key=lambda n: -n.seconds)[: options.top]:
        nodes.add_row(
            node.name,
            node.op,
            node.kernel,
            f"{node.seconds * 1e3:.3f}",
            f"{node.share:.1%}",
            "" if node.flops is None else f"{node.flops / 1e6:.2f}",
            "" if node.gflops_per_s is None else f"{node.gflops_per_s:.2f}",
            f"{node.bytes / 1e6:.2f}",
        )
    console.print(nodes)
    console.print(totals)
    console.print(f"{report.seconds * 1e3:.3f} ms in nodes on {report.device}")


# ------------------------------------------------------------------------------------ arguments


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m engine", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    inspect = _command(commands, "inspect", inspect_model)
    inspect.add_argument("--nodes", action="store_true", help="list every node")
    _add_compile_options(inspect)
    compile_ = _command(commands, "compile", compile_file)
    compile_.add_argument("-o", "--output", type=Path, help="artifact to write")
    compile_.add_argument(
        "--dump", type=Path, metavar="DIR", help="write the graph after each pass"
    )
    _add_compile_options(compile_)
    run = _command(commands, "run", run_model)
    run.add_argument("--save", type=Path, metavar="FILE.npz", help="write the outputs")
    profile = _command(commands, "profile", profile_model)
    profile.add_argument("--repeat", type=int, default=5, help="runs to take the median of")
    profile.add_argument("--top", type=int, default=30, help="nodes to list")
    for each in (run, profile):
        _add_run_options(each)
    return parser


def _command(commands: Any, name: str, run: Any) -> argparse.ArgumentParser:
    made: argparse.ArgumentParser = commands.add_parser(
        name, help=run.__doc__, description=run.__doc__
    )
    made.add_argument("model", type=Path, help="an .onnx file, or an artifact where that will do")
    made.set_defaults(run=run)
    return made


def _add_compile_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--level", type=int, choices=(0, 1, 2), default=2, help="optimisation level"
    )
    parser.add_argument(
        "--keep", action="append", metavar="NAME", help="value to keep; 'ALL' at O0"
    )


def _add_run_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--inputs", type=Path, metavar="FILE.npz", help="inputs; random when left out"
    )
    parser.add_argument("--seed", type=int, default=0, help="of random inputs")
    parser.add_argument(
        "--dim", action="append", default=[], metavar="N=4", help="size of a symbol"
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int)
    parser.add_argument(
        "--keep", action="append", metavar="NAME", help="value to keep; 'ALL' at O0"
    )


def _outputs(options: argparse.Namespace) -> Outputs:
    if options.keep and "ALL" in options.keep:
        return ALL
    return tuple(options.keep) if options.keep else None


def _load(options: argparse.Namespace) -> Model:
    if is_container(options.model):
        return model_from_artifact(map_artifact(options.model), options.device)
    return load(
        options.model, device=options.device, threads=options.threads, outputs=_outputs(options)
    )


def _feeds(options: argparse.Namespace, model: Model) -> dict[str, np.ndarray]:
    if options.inputs is None:
        return random_feeds(model.inputs, _sizes(options.dim), options.seed)
    try:
        with np.load(options.inputs, allow_pickle=False) as file:
            return {spec.name: file[spec.name] for spec in model.inputs}
    except KeyError as error:
        names = [spec.name for spec in model.inputs]
        raise InvalidInput(f"{options.inputs}: {error}; the model needs {names}") from error
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise InvalidInput(f"cannot read inputs from {options.inputs}: {error}") from error


def _sizes(texts: Sequence[str]) -> dict[str, int]:
    sizes = {}
    for text in texts:
        name, equals, number = text.partition("=")
        if not (name and equals and number.isdigit()):
            raise InvalidInput(f"--dim {text!r}: expected a symbol and a number, as in N=4")
        sizes[name] = int(number)
    return sizes


def _dumper(folder: Path) -> Any:
    def write(number: int, name: str, graph: Graph) -> None:
        (folder / f"{number:02d}-{name}.txt").write_text(print_graph(graph))

    return write


# ------------------------------------------------------------------------------------ tables


def _console() -> Any:
    # Imported late: a child that only compiles must start quickly.
    from rich.console import Console

    return Console(highlight=False, soft_wrap=False)


def _table(*columns: str) -> Any:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for i, column in enumerate(columns):
        table.add_column(column, justify="left" if i == 0 else "right", overflow="fold")
    return table


def _values_table(model: Model) -> Any:
    table = _table("value", "type", "shape")
    for kind, specs in (("input", model.inputs), ("output", model.outputs)):
        for spec in specs:
            table.add_row(f"{kind} {spec.name}", spec.dtype, _shape_text(spec))
    return table


def _nodes_table(found: Description) -> Any:
    table = _table("node", "op", "outputs", "parameters", "FLOP")
    for node in found.nodes:
        flops = "" if node.flops is None else _flops_text(node.flops)
        table.add_row(node.name, node.op, ", ".join(node.outputs), f"{node.parameters:,}", flops)
    return table


def _shape_text(spec: TensorSpec) -> str:
    return "unknown" if spec.shape is None else " x ".join(map(str, spec.shape)) or "scalar"


def _flops_text(flops: object) -> str:
    return f"{flops:,}" if isinstance(flops, int) else str(flops)


def _about(metadata: dict[str, str]) -> str:
    return " ".join(metadata.get(key, "") for key in ("producer_name", "producer_version"))


def _summary(array: np.ndarray) -> tuple[str, str, str]:
    if array.size == 0 or array.dtype.kind not in "fiub":
        return "", "", ""
    wide = array.astype(np.float64)
    return f"{wide.min():.5g}", f"{wide.mean():.5g}", f"{wide.max():.5g}"
