"""A model's precision: asked for by name, or measured on its golden samples."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import engine
from server.errors import LoadFailed
from server.repository.loader import LoadedVersion, LoadOptions, load_version, metadata_of
from server.repository.scan import scan_repository
from tests.engine.passes.test_integer_weights import IDS, tied
from tests.server.repository.models import write_version

ON_REFERENCE = LoadOptions(isolate=False, device="reference")


def load(root: Path, settings: str, samples: bool = True) -> LoadedVersion:
    folder = write_version(root, "m", "1", tied())
    (root / "m" / "model.toml").write_text(settings)
    if samples:
        want = engine.load(tied(), device="reference").run(IDS)
        (folder / "samples").mkdir()
        arrays = {f"output:{name}": value for name, value in want.items()}
        np.savez(folder / "samples" / "0.npz", **{"input:ids": IDS["ids"]}, **arrays)
    model = scan_repository(root)["m"]
    return load_version(model, model.versions["1"], ON_REFERENCE, lambda _: None)


def told(loaded: LoadedVersion) -> dict[str, object]:
    try:
        return metadata_of(loaded.loaded, loaded.config)
    finally:
        loaded.close()


def test_float32_is_the_default(tmp_path: Path) -> None:
    found = told(load(tmp_path, ""))
    assert found["precision"] == "fp32" and found["precision_choice"] is None


def test_int8_by_name_must_hold_the_golden_samples(tmp_path: Path) -> None:
    with pytest.raises(LoadFailed, match=r"values are outside rtol=0\.001"):
        load(tmp_path / "a", 'precision = "int8"\n')
    found = told(load(tmp_path / "b", 'precision = "int8"\n[golden]\nrtol = 0.05\natol = 30.0\n'))
    assert found["precision"] == "int8" and found["precision_choice"] is None


@pytest.mark.parametrize(("atol", "agrees"), [(1e-4, False), (30.0, True)])
def test_auto_goes_by_the_golden_bound(tmp_path: Path, atol: float, agrees: bool) -> None:
    found = told(load(tmp_path, f'precision = "auto"\n[golden]\nrtol = 0.05\natol = {atol}\n'))
    choice = found["precision_choice"]
    assert isinstance(choice, dict) and choice["precision"] == found["precision"]
    (int8,) = [c for c in choice["candidates"] if c["precision"] == "int8"]
    assert (int8["reason"] == "") is agrees
    assert agrees or found["precision"] == "fp32"


def test_auto_without_samples_is_float32(tmp_path: Path) -> None:
    found = told(load(tmp_path, 'precision = "auto"\n', samples=False))
    assert found["precision"] == "fp32"
    assert isinstance(found["precision_choice"], dict)
    assert found["precision_choice"]["reason"] == "there are no samples to compare by"


def test_another_word_is_refused(tmp_path: Path) -> None:
    write_version(tmp_path, "m", "1", tied())
    (tmp_path / "m" / "model.toml").write_text('precision = "fp8"\n')
    assert "'fp32', 'bf16', 'int8' or 'auto'" in str(scan_repository(tmp_path)["m"].error)
