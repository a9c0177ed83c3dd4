"""The command line and a translation model."""

from __future__ import annotations

import json
from pathlib import Path

from typer.testing import CliRunner

from server.cli import app
from server.commands.serve import example_line
from tests.server.consoles import widen_consoles
from tests.server.running import RunningServer
from tests.server.shouting import shouting_models, write_sample, write_shouting

runner = CliRunner()


def run(*arguments: str, status: int = 0) -> str:
    widen_consoles()
    done = runner.invoke(app, [*arguments], env={"COLUMNS": "400", "MILLRACE_ISOLATE": "false"})
    assert done.exit_code == status, done.output + repr(done.exception)
    return str(done.output)


def test_predict_prints_a_translation(shouting_server: RunningServer) -> None:
    common = ("--server", shouting_server.url)
    answer = json.loads(run("predict", "shout", "Guten Tag!", "-o", "n_best=2", *common))
    assert answer["results"][0]["text"] == "GUTEN TAG!"
    assert len(answer["results"][0]["alternatives"]) == 1
    assert "422" in run("predict", "shout", "ja", "-o", "beams=0", *common, status=1)


def test_models_and_the_example_line(shouting_server: RunningServer) -> None:
    assert "translation" in run("models", "--server", shouting_server.url)
    line = example_line("http://h", shouting_server.app)
    assert line == (
        "curl -s 'http://h/translate?model=shout' -H 'Content-Type: text/plain' -d 'Hallo Welt.'"
    )


def test_check_and_profile(tmp_path: Path) -> None:
    folder = write_shouting(tmp_path)
    write_sample(folder, "0", text="ja", translation="JA")
    with shouting_models():
        assert "1 models can be served" in run("check", str(tmp_path))
        assert "has no tensors" in run("profile", "shout", "--repository", str(tmp_path), status=1)
        write_sample(folder, "0", text="ja", translation="YES")
        assert "expected 'YES', got 'JA'" in run("check", str(tmp_path), status=1)


def test_push_a_folder(tmp_path: Path) -> None:
    folder = write_shouting(tmp_path / "exported")
    root = tmp_path / "models"
    root.mkdir()
    done = run("push", str(folder), "--name", "de-en", "--repository", str(root))
    assert "de-en version 1" in done
    assert (root / "de-en" / "1" / "manifest.json").is_file()
