"""One operator as a model: run by the engine and by ONNX Runtime, its rules held to the result."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnxruntime
from onnx import ValueInfoProto, helper, numpy_helper

from engine.dtypes import DType
from engine.evaluation import evaluate_graph
from engine.frontend.onnx_importer import import_model
from engine.interpreter import GraphPlan
from engine.ir.graph import Graph
from engine.ir.types import TensorType, evaluate, symbol, symbols_of
from engine.limits import Deadline, Limits
from engine.lowering.batch_axes import follow_rows
from engine.ops import REGISTRY
from engine.ops.rows import RowState

AXES = "abcdefgh"  # a dim's symbol is d, the number of its input and the letter of its axis
BATCH = symbol("N")


@dataclass
class NodeCase:
    """A node, its inputs by position (None is absent), and which of them the model holds fixed."""

    op: str
    inputs: Sequence[np.ndarray | None]
    attributes: dict[str, Any] = field(default_factory=dict)
    opset: int = 17
    fixed: Collection[int] = ()
    outputs: int = 1
    domain: str = ""
    domain_version: int = 1

    def name(self, i: int) -> str:
        return "" if self.inputs[i] is None else f"x{i}"

    @property
    def output_names(self) -> list[str]:
        return [f"y{k}" for k in range(self.outputs)]

    def model(self, dims: str = "static", items: Collection[int] = ()) -> bytes:
        """The model; `dims` is static, symbolic (own symbols) or batch (N leads `items`)."""
        present = [i for i, x in enumerate(self.inputs) if x is not None]
        node = helper.make_node(
            self.op,
            [self.name(i) for i in range(len(self.inputs))],
            self.output_names,
            domain=self.domain,
            **self.attributes,
        )
        inputs = [
            helper.make_tensor_value_info(
                self.name(i), onnx_type(self.inputs[i]), self._shape(i, dims, items)
            )
            for i in present
            if i not in self.fixed
        ]
        outputs = [ValueInfoProto(name=n) for n in self.output_names]
        initializers = [
            numpy_helper.from_array(np.asarray(self.inputs[i]), self.name(i))
            for i in present
            if i in self.fixed
        ]
        graph = helper.make_graph([node], self.op, inputs, outputs, initializers)
        opsets = [helper.make_opsetid("", self.opset)]
        if self.domain:
            opsets.append(helper.make_opsetid(self.domain, self.domain_version))
        model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
        return model.SerializeToString()

    def _shape(self, i: int, dims: str, items: Collection[int]) -> list[int | str]:
        shape = list(np.shape(self.inputs[i]))
        if dims == "symbolic":
            return [f"d{i}{AXES[k]}" for k in range(len(shape))]
        if dims == "batch" and i in items:
            return ["N", *shape[1:]]
        return shape

    def feeds(self) -> dict[str, np.ndarray]:
        return {
            self.name(i): x
            for i, x in enumerate(self.inputs)
            if x is not None and i not in self.fixed
        }

    def graph(self, dims: str = "static", items: Collection[int] = ()) -> Graph:
        return import_model(self.model(dims, items), limits=Limits(), registry=REGISTRY)

    def run_engine(self, dims: str = "static") -> list[np.ndarray]:
        """Run by the engine; every output must have the type that was inferred."""
        graph = self.graph(dims)
        results = list(GraphPlan(graph).run(self.feeds()).values())
        bindings = {
            f"d{i}{AXES[k]}": size
            for i, x in enumerate(self.inputs)
            if x is not None
            for k, size in enumerate(x.shape)
        }
        for value, result in zip(graph.outputs, results, strict=True):
            check_type(value.type, result, bindings)
        return results

    def run_runtime(self) -> list[np.ndarray]:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 4
        session = onnxruntime.InferenceSession(self.model(), options)
        return list(session.run(None, self.feeds()))


def onnx_type(x: np.ndarray | None) -> int:
    assert x is not None
    return DType.from_numpy(x.dtype).onnx


def check_type(inferred: TensorType, result: np.ndarray, bindings: dict[str, int]) -> None:
    """Hold an inferred type to a result; dims with fresh symbols may be anything."""
    assert inferred.dtype.numpy == result.dtype, f"inferred {inferred}, got {result.dtype}"
    if inferred.shape is None:
        return
    assert len(inferred.shape) == result.ndim, f"inferred {inferred}, got shape {result.shape}"
    for dim, size in zip(inferred.shape, result.shape, strict=True):
        if symbols_of(dim) <= bindings.keys():
            assert evaluate(dim, bindings) == size, f"inferred {inferred}, got shape {result.shape}"


def assert_close(ours: np.ndarray, theirs: np.ndarray, rtol: float, atol: float) -> None:
    assert ours.dtype == theirs.dtype
    assert ours.shape == theirs.shape
    if ours.dtype.kind == "O":
        np.testing.assert_array_equal(ours, theirs)
    elif ours.dtype.kind == "f":
        np.testing.assert_allclose(ours, theirs, rtol=rtol, atol=atol, equal_nan=True)
    else:
        difference = np.abs(ours.astype(np.float64) - theirs.astype(np.float64))
        assert not difference.size or difference.max() <= atol


def check_node(
    op: str,
    *inputs: np.ndarray | None,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    dims: Sequence[str] = ("static", "symbolic"),
    opset: int = 17,
    fixed: Collection[int] = (),
    outputs: int = 1,
    domain: str = "",
    domain_version: int = 1,
    **attributes: Any,
) -> list[np.ndarray]:
    """Compare the engine with ONNX Runtime, with static and with symbolic dims; return the result.

    `atol` also bounds how far integers may be apart: 0.5 asks for equality.
    """
    case = NodeCase(op, inputs, attributes, opset, fixed, outputs, domain, domain_version)
    theirs = case.run_runtime()
    for kind in dims:
        for ours, expected in zip(case.run_engine(kind), theirs, strict=True):
            assert_close(ours, expected, rtol, atol)
    return theirs


def row_states(case: NodeCase, items: Collection[int]) -> list[RowState]:
    """The states of the outputs when items lie on axis 0 of the inputs `items`."""
    graph = case.graph("batch", items)
    scope = evaluate_graph(graph, REGISTRY, limits=Limits(), deadline=Deadline(60)).scope
    states = follow_rows(graph, REGISTRY, scope, BATCH)
    return [states[name] for name in case.output_names]


def check_rows(case: NodeCase, items: Collection[int], count: int = 3) -> list[RowState]:
    """Where a rule says ROWS, an item gives its part of the batch whatever the others hold."""
    states = row_states(case, items)
    together = case.run_engine()
    for k, state in enumerate(states):
        if not state.is_rows:
            continue
        block = state.block
        assert isinstance(block, int)
        for item in range(count):
            part = [slice(None)] * together[k].ndim
            part[state.axis] = slice(item * block, (item + 1) * block)
            alone = _only(case, items, item, count).run_engine()[k]
            assert_close(together[k][tuple(part)], alone, 1e-5, 1e-5)
            poisoned = _poisoned(case, items, item, count).run_engine()[k]
            assert_close(poisoned[tuple(part)], alone, 1e-5, 1e-5)
    return states


def _replace(case: NodeCase, inputs: list[np.ndarray | None]) -> NodeCase:
    return replace(case, inputs=inputs)


def _only(case: NodeCase, items: Collection[int], item: int, count: int) -> NodeCase:
    """The same node with one item; other inputs stay."""
    inputs = list(case.inputs)
    for i in items:
        x = inputs[i]
        assert x is not None
        size = x.shape[0] // count
        inputs[i] = x[item * size : (item + 1) * size]
    return _replace(case, inputs)


def _poisoned(case: NodeCase, items: Collection[int], item: int, count: int) -> NodeCase:
    """The same node with every other item full of NaN (the largest number, for integers)."""
    inputs = list(case.inputs)
    for i in items:
        x = inputs[i]
        assert x is not None
        size = x.shape[0] // count
        keep = np.zeros(x.shape[0], dtype=bool)
        keep[item * size : (item + 1) * size] = True
        bad = x.copy()
        bad[~keep] = np.nan if x.dtype.kind == "f" else x.max()
        inputs[i] = bad
    return _replace(case, inputs)


def floats(*shape: int, seed: int = 0, dtype: Any = np.float32, scale: float = 1.0) -> np.ndarray:
    """Reproducible normal numbers."""
    values = np.asarray(np.random.default_rng(seed).standard_normal(shape) * scale)
    return values.astype(dtype)


def int64(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)
