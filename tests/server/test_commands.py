from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import pytest
from PIL import Image
from typer.testing import CliRunner

from server import __version__
from server.cli import app
from server.commands import serve as serve_command
from server.commands.common import call
from server.commands.serve import example_line
from server.process import ServerProcess, build_server
from server.settings import Settings
from tests.server.consoles import widen_consoles
from tests.server.running import RunningServer, running_server
from tests.server.zoo import add_broken, add_digits, add_echo, add_pair

runner = CliRunner()


def run(*arguments: str, status: int = 0) -> str:
    widen_consoles()
    done = runner.invoke(app, [*arguments], env={"COLUMNS": "400"})
    assert done.exit_code == status, done.output + repr(done.exception)
    assert "Traceback" not in done.output
    return str(done.output)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    root = tmp_path_factory.mktemp("cli") / "models"
    add_digits(root, "1")
    add_broken(root)
    settings = Settings(
        repository=root, isolate=False, watch=False, settle_s=0.0, admin_token="t0ken"
    )
    with running_server(settings) as running:
        yield running


def test_version_and_help() -> None:
    assert __version__ in run("--version")
    assert "serve" in run("--help")


def test_models(server: RunningServer) -> None:
    text = run("models", "--server", server.url)
    assert "digits" in text
    assert "READY" in text
    assert "FAILED" in text


def test_predict(server: RunningServer, tmp_path: Path) -> None:
    picture = tmp_path / "digit.png"
    Image.new("L", (28, 28), 30).save(picture)
    arguments = ("predict", "digits", str(picture), "-o", "top_k=2", "--server", server.url)
    answer = json.loads(run(*arguments, "--version", "1"))
    assert len(answer["results"][0]["predictions"]) == 2
    assert "422" in run("predict", "digits", "some text", "--server", server.url, status=1)
    assert "404" in run("predict", "nope", str(picture), "--server", server.url, status=1)
    run("predict", "digits", str(picture), "-o", "top_k", "--server", server.url, status=2)


def test_predict_sends_json_files_as_they_are(server: RunningServer, tmp_path: Path) -> None:
    request = tmp_path / "request.json"
    request.write_text(json.dumps({"inputs": [{"tensors": {"input": [[[0.5] * 28] * 28]}}]}))
    assert json.loads(run("predict", "digits", str(request), "--server", server.url))["results"]


def test_push_to_a_server(server: RunningServer, tmp_path: Path) -> None:
    folder = add_digits(tmp_path, "7")
    common = ("--name", "digits", "--server", server.url)
    assert "(401)" in run("push", str(folder), *common, status=1)
    pushed = run("push", str(folder), *common, "--token", "t0ken", "--version", "7")
    assert "version 7" in pushed
    assert "(409)" in run(
        "push", str(folder), *common, "--token", "t0ken", "--version", "7", status=1
    )
    single = run("push", str(folder / "model.onnx"), *common, "--token", "t0ken")
    assert "version 8" in single
    assert server.app.runtime.handlers.models.status("digits")[0].default == "8"


def test_push_into_a_folder(tmp_path: Path) -> None:
    folder = add_digits(tmp_path / "trained", "1")
    packed = tmp_path / "packed.tar"
    with tarfile.open(packed, "w") as archive:
        for path in folder.iterdir():
            archive.add(path, path.name)
    repository = tmp_path / "models"
    repository.mkdir()
    for source, version in ((folder, "1"), (packed, "2"), (folder / "model.onnx", "3")):
        text = run("push", str(source), "--name", "digits", "--repository", str(repository))
        assert f"version {version}" in text
    assert (repository / "digits" / "2" / "labels.txt").is_file()
    named = ("--name", "../x", "--repository", str(repository))
    assert "name" in run("push", str(folder), *named, status=1)


def split_model(folder: Path, weights: str) -> Path:
    """A model as PyTorch exports it: the graph in one file, the weights in another beside it."""
    whole = onnx.load(add_digits(folder.parent / "whole", "1") / "model.onnx")
    folder.mkdir()
    path = folder / "net.onnx"
    onnx.save(whole, path, save_as_external_data=True, location=weights, size_threshold=0)
    return path


def test_push_takes_the_weights_beside_a_file_along(server: RunningServer, tmp_path: Path) -> None:
    path = split_model(tmp_path / "exported", "net.onnx.data")
    (path.parent / "notes.txt").write_text("not part of the model")
    goal = ("--server", server.url, "--token", "t0ken")
    assert "version 1 is served" in run("push", str(path), "--name", "split", *goal)
    call(server.url, "DELETE", "/models/split/versions/1", token="t0ken")
    repository = tmp_path / "models"
    repository.mkdir()
    run("push", str(path), "--name", "split", "--repository", str(repository))
    names = {each.name for each in (repository / "split" / "1").iterdir()}
    assert names == {"net.onnx", "net.onnx.data", "manifest.json"}
    small = {"MILLRACE_MAX_UPLOAD_BYTES": "1000"}
    widen_consoles()
    arguments = ["push", str(path), "--name", "split", "--repository", str(repository)]
    refused = runner.invoke(app, arguments, env={"COLUMNS": "400", **small})
    assert refused.exit_code == 1 and "max_upload_bytes" in refused.output
    assert "not an ONNX" in run(
        "push", str(path.parent / "notes.txt"), "--name", "m", *goal, status=1
    )
    (path.parent / "net.onnx.data").unlink()
    said = run("push", str(path), "--name", "split", *goal, status=2)
    assert "net.onnx.data, which is not in" in said


def test_moving_versions_by_hand(tmp_path: Path) -> None:
    root = tmp_path / "models"
    for version in ("1", "2"):
        add_digits(root, version)
    settings = Settings(
        repository=root, isolate=False, watch=False, settle_s=0.0, admin_token="t0ken"
    )
    with running_server(settings) as running:
        goal = ("--server", running.url, "--token", "t0ken")
        assert "(401)" in run("promote", "digits", "1", "--server", running.url, status=1)
        assert run("load", "digits", "1", *goal) == "digits serves version 2; loaded are 1, 2\n"
        assert "digits serves version 1" in run("promote", "digits", "1", *goal)
        assert "digits serves version 2" in run("rollback", "digits", *goal)
        assert "stable is 1" in run("label", "digits", "stable", "1", *goal)
        assert "stable" not in run("label", "digits", "stable", *goal)
        assert run("unload", "digits", "1", *goal) == "digits serves version 2\n"
        assert run("unload", "digits", *goal) == "digits serves version none\n"
        assert "digits serves version 2" in run("load", "digits", *goal)
        assert "version 1 is deleted" in run("delete", "digits", "1", *goal)
        assert not (root / "digits" / "1").exists()
        assert "(409)" in run("rollback", "digits", *goal, status=1)
        assert "(404)" in run("delete", "digits", "9", *goal, status=1)


def test_predict_tells_a_missing_file_from_a_text(server: RunningServer) -> None:
    goal = ("--server", server.url)
    assert "no file seven.png" in run("predict", "digits", "seven.png", *goal, status=2)
    assert "got text" in run("predict", "digits", "a picture, seven.png", *goal, status=1)


def test_push_wants_one_goal_and_a_source(tmp_path: Path) -> None:
    run("push", str(tmp_path / "none"), "--name", "m", status=2)
    both = ("--server", "http://x", "--repository", str(tmp_path))
    run("push", str(tmp_path), "--name", "m", *both, status=2)


def test_a_server_that_is_not_there() -> None:
    assert "does not answer" in run("models", "--server", "http://127.0.0.1:1", status=1)
    assert "not a server's address" in run("models", "--server", "ftp://x", status=2)


@pytest.mark.native
def test_check(tmp_path: Path) -> None:
    add_echo(tmp_path, "echo")
    assert "1 models can be served" in run("check", str(tmp_path))
    (tmp_path / "bad" / "1").mkdir(parents=True)
    (tmp_path / "bad" / "1" / "model.onnx").write_bytes(b"x")
    text = run("check", str(tmp_path), status=1)
    assert "FAILED" in text
    assert "1 of 2 models cannot be served: bad" in text
    run("check", str(tmp_path / "nowhere"), status=2)


@pytest.mark.native
def test_profile(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    add_digits(tmp_path, "1")
    add_pair(tmp_path)
    (tmp_path / "bad" / "1").mkdir(parents=True)
    (tmp_path / "bad" / "1" / "model.onnx").write_bytes(b"x")
    text = run("profile", "digits", "--repository", str(tmp_path), "--rows", "2")
    assert "MatMul" in text and "bad" not in text and not caplog.records  # others are left alone
    assert "zeros may not suit" in run("profile", "pair", "--repository", str(tmp_path), status=1)
    said = run("profile", "nope", "--repository", str(tmp_path), status=1)
    assert "no model 'nope'; the repository has: bad, digits, pair" in said


def test_serve_hands_its_flags_to_the_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Settings] = []
    monkeypatch.setattr(serve_command, "run_server", lambda settings, _: seen.append(settings))
    monkeypatch.setenv("MILLRACE_LOG_LEVEL", "error")
    monkeypatch.setenv("MILLRACE_CACHEDIR", "elsewhere")
    flags = ("--port", "99", "--no-watch", "--access-log", "--cache-dir", str(tmp_path / "kept"))
    text = run("serve", str(tmp_path), *flags)
    assert "MILLRACE_CACHEDIR is not a setting; did you mean MILLRACE_CACHE_DIR?" in text
    [settings] = seen
    assert settings.cache_dir == tmp_path / "kept"
    assert (settings.repository, settings.port, settings.watch) == (tmp_path, 99, False)
    assert (settings.access_log, settings.log_level) == (True, "error")
    assert "not a folder" in run("serve", str(tmp_path / "none"), status=2)
    assert "control" in run("serve", str(tmp_path), "--control", "x", status=2)


def test_the_example_line(server: RunningServer) -> None:
    assert example_line("http://h", server.app) == "curl -s http://h/models"
    [deployment] = server.app.runtime.handlers.repository.deployments()
    picture = deployment.folder / "seven.jpg"
    picture.write_bytes(b"")
    try:
        line = example_line("http://h", server.app)
    finally:
        picture.unlink()
    assert "'http://h/predict?model=digits'" in line
    assert "image/jpeg" in line
    assert f"@{picture}" in line


async def test_announcing(server: RunningServer, capsys: pytest.CaptureFixture[str]) -> None:
    serve_command._announce("http://h", server.app, server.settings)
    await server.app.state.announcement
    out = capsys.readouterr().out
    assert "http://h" in out
    assert "curl -s" in out


def signalled(process: ServerProcess, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    bounds: list[float] = []
    monkeypatch.setattr("server.process._end_at_last", bounds.append)
    process.handle_exit(15, None)
    return bounds


async def test_signals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    process = build_server(Settings(repository=tmp_path, drain_timeout_s=7))
    assert signalled(process, monkeypatch) == [12.0]
    assert process.app.runtime.draining
    assert process.should_exit
    assert not process.force_exit
    process.handle_exit(15, None)
    assert process.force_exit
    late = build_server(Settings(repository=tmp_path, shutdown_delay_s=0.05))
    signalled(late, monkeypatch)
    assert not late.should_exit
    exits: list[Any] = [await late.on_tick(1)]
    while not exits[-1]:
        exits.append(await late.on_tick(1))
    assert late.should_exit
