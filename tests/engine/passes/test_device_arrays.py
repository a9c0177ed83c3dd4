"""Fused nodes run on arrays that refuse what CuPy's refuse, and give what they give on numpy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from engine.cuda.plan import CudaPlan
from engine.limits import Limits
from engine.ops import REGISTRY
from tests.engine.cuda.strict_namespace import STRICT
from tests.engine.onnx_models import normal
from tests.engine.passes import exported
from tests.engine.passes.comparing import assert_close, compiled, run
from tests.engine.passes.exported import FLOAT, HALF

NETWORKS: dict[str, tuple[Callable[[int], bytes], tuple[int, ...]]] = {
    "bert": (lambda kind: exported.bert_torchscript(kind=kind), (2, 5, 8)),
    "bert safe": (lambda kind: exported.bert_dynamo(kind=kind, safe=True), (2, 5, 8)),
    "llama": (exported.llama, (2, 5, 8)),
    "residual block": (lambda kind: exported.residual_block(kind=kind), (2, 3, 6, 5)),
}


@pytest.mark.parametrize("kind", [FLOAT, HALF])
@pytest.mark.parametrize("name", NETWORKS)
def test_fused_nodes_on_device_arrays(name: str, kind: int) -> None:
    build, shape = NETWORKS[name]
    graph = compiled(build(kind), 2)
    assert any(node.domain == "millrace" for node in graph.nodes)
    feeds = {"x": normal(*shape).astype(exported.NUMPY[kind])}
    if "mask" in graph.input_names:
        feeds["mask"] = np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    plan = CudaPlan(graph, xp=STRICT, registry=REGISTRY, limits=Limits())
    assert_close(plan.run(feeds, graph.output_names), run(graph, feeds))
