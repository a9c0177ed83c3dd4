"""Manifests: written, read, compared."""

import json
from pathlib import Path

import pytest

from server.repository.completeness import CompletenessChecker
from server.repository.manifest import (
    ManifestInvalid,
    VersionIncomplete,
    check_hashes,
    check_lengths,
    read_manifest,
    write_manifest,
)
from server.repository.scan import scan_repository


@pytest.fixture
def version(tmp_path: Path) -> Path:
    folder = tmp_path / "model" / "1"
    (folder / "samples").mkdir(parents=True)
    (folder / "model.onnx").write_bytes(b"graph")
    (folder / "samples" / "0.npz").write_bytes(b"sample")
    (folder / ".hidden").write_bytes(b"x")
    return folder


def test_what_is_written_is_read_and_holds(version: Path):
    written = write_manifest(version)
    assert list(written) == ["model.onnx", "samples/0.npz"]
    assert read_manifest(version) == written
    check_lengths(version, written)
    check_hashes(version, written)


def test_a_missing_short_or_changed_file_is_named(version: Path):
    manifest = write_manifest(version)
    (version / "model.onnx").write_bytes(b"grapH")
    check_lengths(version, manifest)
    with pytest.raises(VersionIncomplete, match=r"model\.onnx has sha256"):
        check_hashes(version, manifest)
    (version / "model.onnx").write_bytes(b"gra")
    with pytest.raises(VersionIncomplete, match=r"model\.onnx has 3 bytes, its manifest says 5"):
        check_lengths(version, manifest)
    (version / "model.onnx").unlink()
    with pytest.raises(VersionIncomplete, match="not in the folder"):
        check_lengths(version, manifest)
    with pytest.raises(VersionIncomplete, match="cannot be read"):
        check_hashes(version, manifest)


def test_no_manifest(version: Path):
    assert read_manifest(version) is None


@pytest.mark.parametrize(
    "body",
    [
        "{",
        "[]",
        '{"files": []}',
        '{"format": 7, "files": {}}',
        '{"files": {"a": 3}}',
        '{"files": {"a": {"sha256": "00"}}}',
        json.dumps({"files": {"a": {"sha256": "0" * 64, "bytes": -1}}}),
        json.dumps({"files": {"../a": "0" * 64}}),
        json.dumps({"files": {"/etc/passwd": "0" * 64}}),
        json.dumps({"files": {"": "0" * 64}}),
        json.dumps({"files": {"a\0b": "0" * 64}}),
        "[" * 100_000,
    ],
)
def test_damaged_and_hostile_manifests_are_refused(version: Path, body: str):
    (version / "manifest.json").write_text(body)
    with pytest.raises(ManifestInvalid):
        read_manifest(version)


def test_a_hash_alone_is_enough(version: Path):
    digest = write_manifest(version)["model.onnx"].sha256
    (version / "manifest.json").write_text(json.dumps({"files": {"model.onnx": digest.upper()}}))
    manifest = read_manifest(version)
    assert manifest is not None
    check_lengths(version, manifest)
    check_hashes(version, manifest)


def judge(checker: CompletenessChecker, version: Path, wall_s: float, monotonic_s: float):
    snapshot = scan_repository(version.parent.parent)["model"].versions["1"]
    return checker.judge(snapshot, wall_s, monotonic_s)


def changed_s(version: Path) -> float:
    return scan_repository(version.parent.parent)["model"].versions["1"].changed_s


def test_files_without_a_manifest_must_settle(version: Path):
    checker = CompletenessChecker(settle_s=2.0)
    now = changed_s(version)
    young = judge(checker, version, now + 0.5, 100.0)
    assert not young.complete and young.wait_s == pytest.approx(1.5)
    assert judge(checker, version, now + 2.0, 100.5).complete


def test_a_wrong_clock_on_the_file_server_does_not_keep_a_version_out(version: Path):
    checker = CompletenessChecker(settle_s=2.0)
    past = changed_s(version) - 3600
    assert not judge(checker, version, past, 100.0).complete
    assert judge(checker, version, past, 102.0).complete


def test_a_change_starts_the_wait_again(version: Path):
    checker = CompletenessChecker(settle_s=2.0)
    past = changed_s(version) - 3600
    assert not judge(checker, version, past, 100.0).complete
    with (version / "model.onnx").open("ab") as file:
        file.write(b"more")
    assert not judge(checker, version, past, 102.0).complete
    assert judge(checker, version, past, 104.0).complete


def test_with_a_manifest_lengths_decide_at_once(version: Path):
    checker = CompletenessChecker(settle_s=1000.0)
    write_manifest(version)
    assert judge(checker, version, 0.0, 0.0).complete
    (version / "model.onnx").write_bytes(b"gr")
    verdict = judge(checker, version, 0.0, 0.0)
    assert not verdict.complete and verdict.wait_s is None
    assert "model.onnx has 2 bytes" in (verdict.reason or "")
    checker.forget_all_but([])
