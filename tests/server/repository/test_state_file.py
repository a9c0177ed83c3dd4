"""The desired state: whole, counted, and never lost between two writers."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from server.errors import Conflict
from server.repository.state_file import DesiredState, StateFile, StateInvalid
from tests.server.repository.children import fork, open_folder, run_unprivileged


def with_label(label: str, version: str):
    return lambda state: state.model_copy(update={"labels": {**state.labels, label: version}})


def test_without_a_file_nothing_is_asked_for(tmp_path: Path):
    assert StateFile(tmp_path / "model").read() == DesiredState()


def test_changes_are_counted_and_survive(tmp_path: Path):
    file = StateFile(tmp_path / "model")
    assert file.change(with_label("stable", "1")).generation == 1
    assert file.change(with_label("stable", "2")).generation == 2
    assert StateFile(tmp_path / "model").read().labels == {"stable": "2"}


def test_a_change_that_changes_nothing_is_not_written(tmp_path: Path):
    file = StateFile(tmp_path)
    file.change(with_label("stable", "1"))
    before = (tmp_path / ".state.json").stat().st_mtime_ns
    assert file.change(with_label("stable", "1")).generation == 1
    assert (tmp_path / ".state.json").stat().st_mtime_ns == before


def test_compare_and_set(tmp_path: Path):
    file = StateFile(tmp_path)
    file.change(with_label("a", "1"), expected_generation=0)
    with pytest.raises(Conflict, match="generation 1, expected 0") as caught:
        file.change(with_label("a", "2"), expected_generation=0)
    assert caught.value.extra["generation"] == 1
    assert file.read().labels == {"a": "1"}


def test_concurrent_writers_lose_nothing(tmp_path: Path):
    names = [f"label{i}" for i in range(40)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: StateFile(tmp_path).change(with_label(name, "1")), names))
    state = StateFile(tmp_path).read()
    assert state.generation == 40 and set(state.labels) == set(names)


def test_concurrent_processes_lose_nothing(tmp_path: Path):
    def write(name: str) -> None:
        for i in range(5):
            StateFile(tmp_path).change(with_label(f"{name}-{i}", "1"))

    writers = [fork(lambda name=name: write(name)) for name in "ab"]
    assert [os.waitpid(writer, 0)[1] for writer in writers] == [0, 0]
    assert StateFile(tmp_path).read().generation == 10


@pytest.mark.parametrize("content", ["", "{", '{"colour": 1}', '{"generation": -1}', "x" * 2**21])
def test_a_damaged_file_is_reported_and_kept_when_it_is_replaced(tmp_path: Path, content: str):
    (tmp_path / ".state.json").write_text(content)
    file = StateFile(tmp_path)
    with pytest.raises(StateInvalid, match=r"\.state\.json"):
        file.read()
    assert file.change(with_label("a", "1")).generation == 1
    assert (tmp_path / ".state.json.damaged").read_text() == content


def test_a_folder_in_its_place_is_reported(tmp_path: Path):
    (tmp_path / ".state.json").mkdir()
    with pytest.raises(StateInvalid, match="cannot be read"):
        StateFile(tmp_path).read()


def test_a_read_only_folder_is_a_conflict_that_names_the_way_out():
    with open_folder() as folder:
        (folder / "model").mkdir()
        (folder / "model").chmod(0o555)
        assert "Conflict" in run_unprivileged(READ_ONLY, folder / "model")


READ_ONLY = (
    "from server.repository.state_file import StateFile\n"
    "from server.errors import Conflict\n"
    "try:\n"
    "    StateFile(Path(sys.argv[1])).change(lambda s: s.model_copy(update={'pinned': '1'}))\n"
    "except Conflict as error:\n"
    "    assert 'MILLRACE_STATE_DIR' in error.message\n"
    "    print('Conflict')\n"
)
