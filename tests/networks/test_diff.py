"""`python -m engine diff` finds no difference between the devices in any network's every value."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.comparison import Tolerance, compare_sides, run_side, with_every_value
from engine.compiler import CompileRequest, compile_model
from engine.loading import model_from_artifact
from tests.networks.cases import read_cases
from tests.networks.table import NETWORKS

FOLDER = Path(__file__).with_name("fixtures")
QUICK = ("resnet_optimized", "bert_optimized")


def check_every_value(name: str) -> None:
    """Run the optimised graph on both devices; hold all that one computes to the other's."""
    path = FOLDER / f"{name}.onnx"
    artifact = with_every_value(compile_model(path, CompileRequest(level=2)))
    feeds = read_cases(path.with_suffix(".npz"))[0].feeds
    sides = []
    for device in ("reference", "cpu"):
        with model_from_artifact(artifact, device) as model:
            sides.append(run_side(device, model, feeds))
    reference, native = sides
    assert reference.values.keys() == native.values.keys()
    tolerance = Tolerance(rtol=max(1e-3, NETWORKS[name].tolerance))
    found = compare_sides(reference, native, tolerance)
    assert found.compared >= len(artifact.outputs)
    assert found.first is None, found.first


@pytest.mark.parametrize("name", QUICK)
def test_every_value(name: str) -> None:
    check_every_value(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(NETWORKS.keys() - set(QUICK)))
def test_every_value_of_the_others(name: str) -> None:
    check_every_value(name)
