"""ONNX's node tests, thinned out: what to run on arrays that are not numpy's."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from benchmarks.conformance.cases import Content, case_names, read_case
from benchmarks.conformance.reasons import reason_for
from engine.errors import EngineError
from engine.frontend.onnx_importer import import_model
from engine.ir.graph import Graph
from engine.limits import Limits
from engine.ops import REGISTRY

# The longest beginnings of names that stand for one operator, more or less: "test_reduce_max".
NAME_PARTS = 3


def graph_of(content: Content) -> Graph | None:
    """Return the typed graph of a case, or None when the engine refuses it."""
    try:
        return import_model(content.model, limits=Limits(), registry=REGISTRY)
    except EngineError:
        return None


def sampled(per_family: int) -> Iterator[tuple[str, Content]]:
    """Yield some cases of every family of names, evenly; expansions of functions are left out."""
    families: dict[str, list[str]] = defaultdict(list)
    for name in case_names("node"):
        if not ("_expanded" in name or "training" in name or reason_for(name)):
            families["_".join(name.split("_")[:NAME_PARTS])].append(name)
    for _, names in sorted(families.items()):
        for name in names[:: max(1, len(names) // per_family)][:per_family]:
            yield name, read_case("node", name)
