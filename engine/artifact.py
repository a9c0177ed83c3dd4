"""An artifact: an optimised graph with all that a session needs to run it, in memory or in one
file.

The file is a container: a JSON header and the raw weights, mapped read-only when it is read back.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from engine.container import Container, map_container, write_container
from engine.errors import EngineError, InvalidModel
from engine.graph_json import GraphLoader, GraphWriter
from engine.ir.graph import Graph
from engine.ir.verify import verify_graph
from engine.lowering.batch_axes import BatchAxes, BatchVerdict

KIND = "millrace-artifact"
# Part of every cache key and header: raise it when the same source compiles to something else.
COMPILER_VERSION = 4


@dataclass(frozen=True)
class Artifact:
    """What compiling makes.

    Attributes:
        graph: The optimised graph; its outputs are all values that may be fetched.
        outputs: The outputs that a run gives when it names none.
        batch: What may be batched, or why nothing.
        parameters: Elements of the weights as the file had them, before folding.
        external: Whether tensors came from other files than the model's own.
    """

    graph: Graph
    outputs: tuple[str, ...]
    batch: BatchVerdict
    parameters: int
    external: bool = False


def write_artifact(artifact: Artifact, path: Path) -> None:
    """Write an artifact to a new file."""
    writer = GraphWriter()
    axes = artifact.batch.axes
    header = {
        "kind": KIND,
        "compiler": COMPILER_VERSION,
        "graph": writer.graph(artifact.graph),
        "outputs": artifact.outputs,
        "batch": None if axes is None else [sorted(axes.inputs), sorted(axes.outputs)],
        "batch_reason": artifact.batch.reason,
        "parameters": artifact.parameters,
        "external": artifact.external,
    }
    write_container(path, header, writer.blobs)


def map_artifact(path: Path) -> Artifact:
    """Map an artifact read-only; a damaged or foreign file is an `InvalidModel`."""
    container = map_container(path)
    try:
        artifact = _read(container)
        verify_graph(artifact.graph)
    except InvalidModel:
        raise
    except (EngineError, LookupError, TypeError, ValueError, AttributeError) as error:
        raise InvalidModel(f"artifact {path.name} does not hold a graph: {error}") from error
    return artifact


def _read(container: Container) -> Artifact:
    header = container.header
    if header["kind"] != KIND or header["compiler"] != COMPILER_VERSION:
        raise InvalidModel(f"artifact of another compiler; expected version {COMPILER_VERSION}")
    batch = header["batch"]
    axes = None if batch is None else BatchAxes(frozenset(batch[0]), frozenset(batch[1]))
    return Artifact(
        graph=GraphLoader(container.blobs).graph(header["graph"]),
        outputs=tuple(header["outputs"]),
        batch=BatchVerdict(axes, header["batch_reason"]),
        parameters=int(header["parameters"]),
        external=bool(header["external"]),
    )
