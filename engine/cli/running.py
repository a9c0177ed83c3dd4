"""`python -m engine compile | run | profile`: artifacts, outputs, and what every node costs."""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from engine.artifact_compiler import compile_to_file
from engine.cli.options import (
    add_compile_options,
    add_run_options,
    command,
    compiler_told,
    load_model,
    read_feeds,
)
from engine.cli.tables import console, counted, plain, table
from engine.errors import InvalidInput
from engine.ir.graph import Graph
from engine.ir.printer import print_graph


def add_compile(commands: Any) -> None:
    """Add the command."""
    parser = command(commands, "compile", compile_file)
    parser.add_argument("-o", "--output", type=Path, help="artifact to write")
    parser.add_argument("--device", default="", help="compile for this device; without it, for any")
    parser.add_argument("--dump", type=Path, metavar="DIR", help="write the graph after each pass")
    add_compile_options(parser)


def add_run(commands: Any) -> None:
    """Add the command."""
    parser = command(commands, "run", run_model)
    parser.add_argument("--save", type=Path, metavar="FILE.npz", help="write the outputs")
    add_run_options(parser)


def add_profile(commands: Any) -> None:
    """Add the command."""
    parser = command(commands, "profile", profile_model)
    parser.add_argument("--repeat", type=int, default=5, help="runs to take the median of")
    parser.add_argument("--top", type=int, default=30, help="nodes to list")
    add_run_options(parser)


def compile_file(options: argparse.Namespace) -> None:
    """Compile a model into an artifact, for a device if asked: its machine code is kept, too.

    Writes the graph after every pass if asked.
    """
    if options.dump is not None:
        options.dump.mkdir(parents=True, exist_ok=True)
    request, how = compiler_told(options)
    start = time.perf_counter()
    watch = _dumper(options.dump) if options.dump is not None else None
    with tempfile.TemporaryDirectory(prefix="millrace-") as folder, counted("kernels") as progress:
        output = options.output or Path(folder) / "artifact"
        output.unlink(missing_ok=True)
        how = replace(how, progress=progress)
        artifact = compile_to_file(options.model, output, request, options.device, how, watch=watch)
    seconds = time.perf_counter() - start
    console().print(f"{len(artifact.graph.nodes)} nodes after {seconds:.2f} s")


def run_model(options: argparse.Namespace) -> None:
    """Run a model once on an .npz file or on random inputs, and print or save the outputs."""
    with load_model(options) as model:
        feeds = read_feeds(options, model)
        start = time.perf_counter()
        results = model.run(feeds)
        seconds = time.perf_counter() - start
    if options.save is not None:
        _save(options.save, results)
    made = table("output", "type", "shape", "min", "mean", "max")
    for name, value in results.items():
        made.add_row(plain(name), *map(plain, _about(value)))
    out = console()
    out.print(made)
    out.print(f"{seconds * 1e3:.3f} ms on {options.device}")


def profile_model(options: argparse.Namespace) -> None:
    """Print what every node costs."""
    with load_model(options) as model:
        report = model.profile(read_feeds(options, model), repeat=options.repeat)
    totals = table("op", "nodes", "ms", "share")
    for op, count, seconds, share in report.by_op():
        totals.add_row(op, str(count), f"{seconds * 1e3:.3f}", f"{share:.1%}")
    nodes = table("node", "op", "kernel", "ms", "share", "MFLOP", "GFLOP/s", "MB", "peak")
    for node in sorted(report.nodes, key=lambda n: -n.seconds)[: options.top]:
        nodes.add_row(
            plain(node.name if node.times == 1 else f"{node.name} ({node.times} times)"),
            node.op,
            node.kernel,
            f"{node.seconds * 1e3:.3f}",
            f"{node.share:.1%}",
            "" if node.flops is None else f"{node.flops / 1e6:.2f}",
            "" if node.gflops_per_s is None else f"{node.gflops_per_s:.2f}",
            f"{node.bytes / 1e6:.2f}",
            "" if node.peak_share is None else f"{node.peak_share:.0%}",
        )
    out = console()
    out.print(nodes)
    out.print(totals)
    out.print(f"{report.seconds * 1e3:.3f} ms in nodes on {report.device}")


def _save(path: Path, results: dict[str, Any]) -> None:
    """Write arrays; an .npz holds no lists, no missing values, and no objects without pickling."""
    for name, value in results.items():
        if not isinstance(value, np.ndarray) or value.dtype.kind == "O":
            kind = "texts" if isinstance(value, np.ndarray) else type(value).__name__
            raise InvalidInput(f"output {name!r} is {kind}; --save writes tensors of numbers only")
    np.savez(path, **results)


def _dumper(folder: Path) -> Any:
    def write(number: int, name: str, graph: Graph) -> None:
        (folder / f"{number:02d}-{name}.txt").write_text(print_graph(graph))

    return write


def _about(value: Any) -> tuple[str, ...]:
    """Return type, shape, and where they make sense least, mean and largest number."""
    if not isinstance(value, np.ndarray):
        size = f"{len(value)} items" if isinstance(value, (list, dict)) else ""
        return type(value).__name__, size, "", "", ""
    facts = str(value.dtype), str(list(value.shape))
    if value.size == 0 or value.dtype.kind not in "fiub":
        return (*facts, "", "", "")
    wide = value.astype(np.float64)
    return (*facts, f"{wide.min():.5g}", f"{wide.mean():.5g}", f"{wide.max():.5g}")
