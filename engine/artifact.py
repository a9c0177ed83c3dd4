"""An artifact: an optimised graph with all that a session needs to run it, in memory or in one
file.

The file is a container: a JSON header and raw blobs, mapped read-only when it is read back. It
holds either the whole graph, for any device, or what one device made of it, with the graph for
inspection.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from engine.container import Container, ContainerWriter, map_container
from engine.device import CompileOptions, Plan, StoringDevice
from engine.errors import EngineError, InvalidModel
from engine.graph_json import GraphLoader, GraphWriter
from engine.ir.graph import Graph
from engine.ir.verify import verify_graph
from engine.lowering.batch_axes import BatchAxes, BatchVerdict
from engine.lowering.leading import LeadingDims

KIND: Final = "millrace-artifact"
# Part of every cache key and header: raise it when the same source compiles to something else.
COMPILER_VERSION: Final = 8
LARGE_BYTES: Final = 4096  # fixed values above it are left out of a graph for inspection


@dataclass(frozen=True, eq=False)
class StoredPlan:
    """What a device made of a graph, as it lies in a file.

    Attributes:
        device: The device's name.
        fingerprint: What it depends on.
        data: What the device wrote down.
        blobs: All blobs of the file.
    """

    device: str
    fingerprint: str
    data: Any
    blobs: Sequence[memoryview]


@dataclass(frozen=True)
class Artifact:
    """What compiling makes.

    Attributes:
        graph: The optimised graph; its outputs are all values that may be fetched.
        outputs: The outputs that a run gives when it names none.
        batch: What may be batched, or why nothing.
        parameters: Elements of the weights as the file had them, before folding; shapes, axes and
            the like are none.
        external: Other files that tensors came from: paths within the model's folder, with what
            told each from others when it was read (`engine.frontend.safety.ExternalData`).
        plan: What a device made of the graph, which then lacks its large fixed values.
        leading: Which numbers of rows may differ by being one, where the file names several.
    """

    graph: Graph
    outputs: tuple[str, ...]
    batch: BatchVerdict
    parameters: int
    external: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    plan: StoredPlan | None = None
    leading: LeadingDims | None = None

    @property
    def light(self) -> Artifact:
        """The same without large fixed values."""
        return replace(self, graph=without_large(self.graph))


def without_large(graph: Graph, most_bytes: int = LARGE_BYTES) -> Graph:
    """Return a graph for inspection: fixed values of more bytes are left out, in bodies too."""
    nodes = []
    for node in graph.nodes:
        bodies = {name: without_large(body, most_bytes) for name, body in node.bodies}
        more = {"attributes": {**node.attributes, **bodies}} if bodies else {}
        nodes.append(node.replace(**more) if more else node)
    small = [
        {name: array for name, array in arrays.items() if array.nbytes <= most_bytes}
        for arrays in (graph.initializers, graph.constants)
    ]
    return graph.replace(nodes=tuple(nodes), initializers=small[0], constants=small[1])


def write_artifact(artifact: Artifact, path: Path) -> None:
    """Write an artifact that any device can run to a new file."""
    with ContainerWriter(path) as into:
        into.finish(_header(artifact, into))


def write_plan(
    artifact: Artifact, device: StoringDevice, options: CompileOptions, path: Path
) -> None:
    """Compile an artifact for a device into a new file."""
    with ContainerWriter(path) as into:
        native = {
            "device": device.name,
            "fingerprint": device.fingerprint(options),
            "data": device.write(artifact.graph, options, into),
        }
        into.finish({**_header(artifact.light, into), "native": native})


def map_artifact(path: Path) -> Artifact:
    """Map an artifact read-only; a damaged or foreign file is an `InvalidModel`."""
    container = map_container(path)
    try:
        artifact = _read(container)
        if artifact.plan is None:
            verify_graph(artifact.graph)
    except InvalidModel:
        raise
    except (EngineError, LookupError, TypeError, ValueError, AttributeError) as error:
        raise InvalidModel(f"artifact {path.name} does not hold a graph: {error}") from error
    return artifact


def read_plan(artifact: Artifact, device: StoringDevice, options: CompileOptions) -> Plan:
    """Return the plan that an artifact holds for this device, or raise `InvalidModel`."""
    stored = artifact.plan
    if stored is None or stored.device != device.name:
        raise InvalidModel(f"the artifact holds nothing for device {device.name!r}")
    if stored.fingerprint != device.fingerprint(options):
        raise InvalidModel(
            "the artifact was compiled for another processor or precision, or by another version "
            "of the engine: compile it again from its model (or restart this process, if the "
            "engine was replaced since it began)"
        )
    try:
        return device.read(stored.data, artifact.graph, stored.blobs, options)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise InvalidModel(f"the artifact does not hold a plan: {error}") from error


def _header(artifact: Artifact, into: ContainerWriter) -> dict[str, Any]:
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
        "external": dict(artifact.external),
        "leading": None if artifact.leading is None else artifact.leading.to_json(),
        "native": None,
    }
    return {**header, "arrays": [into.add(blob) for blob in writer.blobs]}


def _read(container: Container) -> Artifact:
    header, blobs = container.header, container.blobs
    if header["kind"] != KIND or header["compiler"] != COMPILER_VERSION:
        raise InvalidModel(f"artifact of another compiler; expected version {COMPILER_VERSION}")
    batch = header["batch"]
    axes = None if batch is None else BatchAxes(frozenset(batch[0]), frozenset(batch[1]))
    native, leading = header["native"], header["leading"]
    return Artifact(
        graph=GraphLoader([blobs[number] for number in header["arrays"]]).graph(header["graph"]),
        outputs=tuple(header["outputs"]),
        batch=BatchVerdict(axes, header["batch_reason"]),
        parameters=int(header["parameters"]),
        external={str(n): tuple(map(int, f)) for n, f in header["external"].items()},
        plan=None if native is None else StoredPlan(**native, blobs=blobs),
        leading=None if leading is None else LeadingDims.from_json(leading),
    )
