"""Real ImageNet nets over HTTP get as many photographs right as ONNX Runtime does."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.accuracy.photos60 import NETS, Net, compare, write_repository
from benchmarks.common.server_process import ServerProcess


@pytest.mark.data
@pytest.mark.parametrize("net", NETS, ids=lambda net: net.name)
def test_hits_are_onnx_runtimes(net: Net, tmp_path: Path, data_folder: Path) -> None:
    write_repository(tmp_path / "repository", data_folder)
    with ServerProcess(tmp_path / "repository", tmp_path / "server.log") as server:
        ours, theirs = compare(server, net, data_folder)
    print(f"{net.name}: Millrace {ours}, ONNX Runtime {theirs}")
    assert all(abs(a - b) <= 1 for a, b in zip(ours, theirs, strict=True))
