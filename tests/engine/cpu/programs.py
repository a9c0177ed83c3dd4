"""Lowers small models and runs the programs step by step, every buffer between guards."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import helper

from engine.cpu.buffers import Buffer, Place, Program
from engine.cpu.lower import families
from engine.cpu.lower.context import Lowering
from engine.cpu.lower.pictures import plan_pictures
from engine.cpu.target import Target, host_target
from engine.evaluation import evaluate_graph
from engine.interpreter import GraphPlan
from engine.ir.graph import Graph
from engine.ir.types import evaluate
from engine.limits import Deadline, Limits
from engine.ops.registry import REGISTRY
from tests.engine.cpu.harness import GUARD, guarded, loaded
from tests.engine.onnx_models import Spec, graph_of, model

assert families


def lower(
    graph: Graph,
    *,
    target: Target | None = None,
    borders: Mapping[str, int] | None = None,
    places: Mapping[str, tuple[str, int]] | None = None,
    symbolic: Mapping[str, np.ndarray] | None = None,
) -> Program:
    """The program of all nodes; `NoKernel` when one has none."""
    names = [v.name for v in graph.inputs if v.name not in graph.constants]
    lowering = Lowering(
        graph,
        graph.nodes,
        target or host_target(),
        inputs=names,
        outputs=graph.output_names,
        borders=borders,
        places=places,
        symbolic=symbolic,
    )
    for node in graph.nodes:
        lowering.lower(node)
    return lowering.finish()


def run_program(
    program: Program,
    inputs: Sequence[np.ndarray],
    *,
    pieces: int = 2,
    target: Target | None = None,
) -> list[np.ndarray]:
    """The outputs; tasks are cut into `pieces`, memory is full of NaN at first."""
    target = target or host_target()
    bindings: dict[str, int] = {}
    for buffer, array in zip(program.inputs, inputs, strict=True):
        for dim, size in zip(buffer.plain.shape, array.shape, strict=True):
            if not isinstance(dim, int) and dim.is_symbol:
                bindings[str(dim)] = size
    for need in program.requirements:
        left, right = evaluate(need.left, bindings), evaluate(need.right, bindings)
        assert left == right, need.message
    memory: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def place(buffer: Buffer) -> int:
        root, offset = buffer.root
        if id(root) not in memory:
            memory[id(root)] = guarded(_initial(root))
        return int(memory[id(root)][0].ctypes.data) + offset

    def _initial(root: Buffer) -> np.ndarray:
        match root.place:
            case Place.INPUT:
                return np.ascontiguousarray(inputs[root.index])
            case Place.WEIGHTS:
                return np.ascontiguousarray(program.weights[root.index].pack())
            case Place.OUTPUT if root.index < 0:
                return np.zeros(1, np.int64)
            case Place.OUTPUT:
                shape = [evaluate(d, bindings) for d in root.plain.shape]
                raw = np.full(int(np.prod(shape)) * root.plain.dtype.itemsize, 0xFF, np.uint8)
                return raw.view(root.plain.dtype.numpy).reshape(shape)
        return np.full(evaluate(root.size_bytes, bindings), 0xFF, np.uint8)

    kinds = (*(ctypes.c_void_p,) * 2, *(ctypes.c_int64,) * 2, ctypes.c_void_p)
    for step in program.steps:
        function = loaded(step.kernel, target).function("kernel", *kinds)
        pointers = np.array([place(b) for b in (*step.writes, *step.reads)], np.int64)
        numbers = np.array([*(evaluate(n, bindings) for n in step.numbers), 0], np.int64)
        scratch = np.full(step.kernel.scratch_bytes(target) + 128, 0xFF, np.uint8)
        aligned = scratch.ctypes.data + (-scratch.ctypes.data % 64)
        tasks = evaluate(step.tasks, bindings)
        for k in range(pieces):
            low, high = tasks * k // pieces, tasks * (k + 1) // pieces
            function(pointers.ctypes.data, numbers.ctypes.data, low, high, aligned)
    for buffer in program.outputs:
        place(buffer)
    for inner, whole in memory.values():
        start = inner.ctypes.data - whole.ctypes.data
        around = np.concatenate([whole[:start], whole[start + inner.nbytes :]])
        assert (around == GUARD).all(), "written outside of a buffer"
    for fault in program.faults:
        if memory[id(fault.buffer)][0].any():
            raise IndexError(fault.message)
    return [
        memory[id(b.root[0])][0].reshape([evaluate(d, bindings) for d in b.plain.shape])
        for b in program.outputs
    ]


def check(
    nodes: Sequence[onnx.NodeProto],
    feeds: Mapping[str, np.ndarray],
    outputs: Sequence[Spec],
    weights: Mapping[str, np.ndarray] | None = None,
    *,
    shapes: Mapping[str, Sequence[int | str]] | None = None,
    opset: int = 21,
    domains: Mapping[str, int] | None = None,
    borders: Mapping[str, int] | None = None,
    tolerance: float = 0.0,
    target: Target | None = None,
    steps: int | None = None,
) -> Program:
    """Hold the native program of a small model against the reference.

    `shapes` are the inputs' shapes as the model states them; `steps` how many steps are expected.
    """
    shapes = shapes or {}
    inputs: list[Spec] = [
        (name, shapes.get(name, array.shape), helper.np_dtype_to_tensor_dtype(array.dtype))
        for name, array in feeds.items()
    ]
    data = model(nodes, inputs, outputs, weights, opset=opset, domains=domains)
    graph = graph_of(data)
    limits = Limits()
    scope = evaluate_graph(graph, REGISTRY, limits=limits, deadline=Deadline(60)).scope
    graph = graph.replace(constants={**graph.constants, **scope.constants}, types=scope.types)
    pictures = plan_pictures(graph, graph.nodes, target or host_target())
    program = lower(
        graph,
        borders={**pictures.borders, **(borders or {})},
        places=pictures.places,
        symbolic=scope.symbolic,
        target=target,
    )
    if steps is not None:
        assert len(program.steps) == steps, [step.kernel for step in program.steps]
    for pieces in (1, 3):
        got = run_program(program, list(feeds.values()), pieces=pieces, target=target)
        expected = GraphPlan(graph).run(dict(feeds))
        for name, mine in zip(graph.output_names, got, strict=True):
            assert mine.dtype == expected[name].dtype and mine.shape == expected[name].shape
            if tolerance:
                np.testing.assert_allclose(mine, expected[name], rtol=tolerance, atol=tolerance)
            else:
                np.testing.assert_array_equal(mine, expected[name])
    return program
