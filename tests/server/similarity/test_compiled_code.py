"""Where the code of maps is kept between processes."""

import importlib
import os
import stat
import sys
from pathlib import Path
from types import ModuleType

import pytest

from server.handlers.collection_map import MapRequest, _stage
from server.similarity import compiled_code
from server.similarity.compiled_code import VARIABLE, is_installed, keep_code


@pytest.fixture(autouse=True)
def nothing_is_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(VARIABLE, "")  # so that what a test sets goes with it
    monkeypatch.delitem(sys.modules, "umap", raising=False)
    monkeypatch.setattr(compiled_code, "is_installed", lambda: True)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()


def kept_in() -> Path:
    return Path(os.environ[VARIABLE])


def test_below_the_servers_cache(tmp_path: Path):
    keep_code(tmp_path / "cache")
    assert kept_in() == tmp_path / "cache" / "numba"
    assert stat.S_IMODE(kept_in().stat().st_mode) & 0o077 == 0


def test_below_the_users_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    keep_code(None)
    assert kept_in() == tmp_path / "millrace" / "numba"


def test_without_a_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def homeless() -> Path:
        raise RuntimeError("no home")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    keep_code(None)
    assert kept_in().parent == tmp_path / "tmp"


def test_not_where_others_may_write(tmp_path: Path):
    shared = tmp_path / "cache" / "numba"
    shared.mkdir(parents=True)
    shared.chmod(0o777)
    keep_code(tmp_path / "cache")
    assert kept_in().parent == tmp_path / "tmp"


def test_not_where_nothing_can_be_made(tmp_path: Path):
    (tmp_path / "cache").write_bytes(b"a file")
    keep_code(tmp_path / "cache")
    assert kept_in().parent == tmp_path / "tmp"


def test_what_somebody_has_set_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(VARIABLE, "elsewhere")
    keep_code(tmp_path / "cache")
    assert os.environ[VARIABLE] == "elsewhere" and not (tmp_path / "cache").exists()


def test_what_is_loaded_has_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert "compiled" in _stage(MapRequest("c", "umap"))
    monkeypatch.setitem(sys.modules, "umap", ModuleType("umap"))
    assert "compiled" in _stage(MapRequest("c", "umap"))  # an empty folder of that name
    monkeypatch.setattr(sys.modules["umap"], "UMAP", object, raising=False)
    keep_code(tmp_path / "cache")
    assert not os.environ[VARIABLE]
    assert _stage(MapRequest("c", "umap")) == "a map by umap is being drawn"


def test_what_is_not_installed_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(compiled_code, "is_installed", is_installed)
    monkeypatch.setattr(compiled_code, "LIBRARY", "left_behind")
    (tmp_path / "left_behind").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    assert not is_installed()
    keep_code(tmp_path / "cache")
    assert not os.environ[VARIABLE]
    (tmp_path / "left_behind" / "__init__.py").touch()
    importlib.invalidate_caches()
    assert is_installed()
