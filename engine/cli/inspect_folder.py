"""`python -m engine inspect FOLDER`: what an encoder-decoder is, and what was recognised of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from engine.cli.tables import console, plain, table
from engine.device import CompileOptions, get_device
from engine.generation.loading import load_seq2seq
from engine.generation.seq2seq import LoadedSeq2Seq
from engine.session import Model, TensorSpec


def inspect_folder(folder: Path, *, native: bool) -> None:
    """Print parts, sizes and notes of an encoder-decoder; `native` says what is portable."""
    loaded = load_seq2seq(folder, device="reference")
    out = console()
    out.print(_parts_table(loaded))
    for name, model in loaded.models.items():
        if native:
            out.print(f"{name}: {_portable(model)}", markup=False)
    out.print(f"vocabulary: {loaded.vocabulary_size}", markup=False)
    ends = [_end(n) for n in (loaded.source_positions, loaded.target_positions)]
    out.print(f"longest source: {ends[0]}, longest target: {ends[1]}", markup=False)
    out.print(f"cached: {'yes' if loaded.cached else 'no'}", markup=False)
    for note in loaded.notes:
        out.print(f"  {note}", markup=False)


def _parts_table(loaded: LoadedSeq2Seq) -> Any:
    made = table("part", "nodes", "weights", "inputs", "outputs")
    for name, model in loaded.models.items():
        made.add_row(
            name,
            str(len(model.graph.nodes)),
            f"{model.memory().weights_bytes / 1e6:.2f} MB",
            plain("\n".join(map(_text, model.inputs))),
            plain("\n".join(map(_text, model.outputs))),
        )
    return made


def _text(spec: TensorSpec) -> str:
    return f"{spec.name}: {spec.dtype} {' x '.join(map(str, spec.shape or ())) or 'scalar'}"


def _end(positions: int | None) -> str:
    return "no end found" if positions is None else str(positions)


def _portable(model: Model) -> str:
    cpu: Any = get_device("cpu")
    found = [n for n in cpu.coverage(model.graph, CompileOptions()) if n.reason is not None]
    lines = [f"{each.node.op} {each.node.label!r} ({each.reason})" for each in found]
    return "all nodes are native" if not lines else "portable: " + "; ".join(lines)
