from __future__ import annotations

import base64

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from server.errors import InvalidInput, LoadFailed
from server.model_config import EmbeddingConfig, ModelConfig
from server.tasks import TensorItem, build_task
from server.tasks.embedding import normalize
from tests.server.tasks.models import FLAT, LOGITS, Spec

POOL = (Spec("pool", "float32", ("N", 2)),)


def task_of(outputs=POOL, kept=(), **keys):
    config = ModelConfig(embedding=EmbeddingConfig(**keys))
    return build_task(config, FLAT, outputs, kept, None)


def embed(task, vectors, parameters=None, rows=None):
    item = TensorItem({"input": [0, 0, 0, 0] if rows is None else [[0, 0, 0, 0]] * rows})
    prepared = task.prepare(item, task.parameters(parameters or {}))
    return task.finish({task.fetches[0]: np.array(vectors, np.float32)}, prepared, parameters or {})


def test_a_vector_of_length_one():
    got = embed(task_of(), [[3, 4]])
    assert got == {"embedding": pytest.approx([0.6, 0.8]), "dim": 2, "normalized": True}


def test_a_vector_as_it_is():
    expected = {"embedding": [3.0, 4.0], "dim": 2, "normalized": False}
    assert embed(task_of(normalize=False), [[3, 4]]) == expected
    assert embed(task_of(), [[3, 4]], {"normalize": False}) == expected
    assert embed(task_of(), [[3, 4]], {"normalize": "false"}) == expected


def test_several_rows():
    got = embed(task_of(), [[3, 4], [0, 2]], rows=2)
    np.testing.assert_allclose(got["embedding"], [[0.6, 0.8], [0, 1]], rtol=1e-6)


def test_base64_is_little_endian_float32():
    got = embed(task_of(), [[3, 4]], {"encoding": "base64"})
    assert (got["encoding"], got["dtype"], got["dim"]) == ("base64", "float32", 2)
    np.testing.assert_allclose(np.frombuffer(base64.b64decode(got["embedding"]), "<f4"), [0.6, 0.8])
    two = embed(task_of(), [[3, 4], [0, 2]], {"encoding": "base64"}, rows=2)
    assert [len(base64.b64decode(row)) for row in two["embedding"]] == [8, 8]


def test_zeros_have_no_direction_and_stay():
    got = embed(task_of(), [[0, 0]])
    assert got == {"embedding": [0.0, 0.0], "dim": 2, "normalized": False}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_has_no_direction(value):
    with pytest.raises(InvalidInput, match="normalize: false"):
        embed(task_of(), [[1, value]])
    assert embed(task_of(), [[1, value]], {"normalize": False})["dim"] == 2


def test_any_kept_value_and_pooled_maps():
    task = task_of(LOGITS, kept=("logits", "pool"), output="pool")
    assert task.name == "embedding" and task.fetches == ("pool",)
    got = embed(task, np.array([3, 4]).reshape(1, 2, 1, 1))
    assert got["embedding"] == pytest.approx([0.6, 0.8])


def test_an_unknown_value_lists_the_known():
    with pytest.raises(LoadFailed, match="there are: logits, pool"):
        task_of(LOGITS, kept=("logits", "pool"), output="pol")
    with pytest.raises(LoadFailed, match=r", \.\.\.$"):
        task_of(LOGITS, kept=tuple(f"v{i}" for i in range(100)), output="pol")


def test_maps_are_no_vectors():
    with pytest.raises(LoadFailed, match="name a pooled value"):
        task_of((Spec("maps", "float32", ("N", 2, 7, 7)),))


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"encoding": "hex"}, "'float' or 'base64'"),
        ({"normalize": "perhaps"}, "true or false"),
        ({"normalize": 1}, "true or false"),
        ({"top_k": 1}, "task embedding knows: normalize, encoding"),
    ],
)
def test_wrong_parameters(parameters, message):
    with pytest.raises(InvalidInput, match=message):
        task_of().parameters(parameters)


floats = st.floats(-(2.0**126), 2.0**126, width=32)


@given(hnp.arrays(np.float32, st.tuples(st.integers(1, 4), st.integers(1, 8)), elements=floats))
def test_every_row_has_length_one_or_is_zero(vectors):
    scaled, all_one = normalize(vectors)
    lengths = np.linalg.norm(scaled.astype(np.float64), axis=1)
    zero = ~vectors.any(axis=1)
    np.testing.assert_allclose(lengths[~zero], 1.0, rtol=1e-6)
    assert (scaled[zero] == 0).all()
    assert all_one == (not zero.any())
