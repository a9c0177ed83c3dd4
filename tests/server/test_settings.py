from __future__ import annotations

import re
from pathlib import Path

import pytest

from server.settings import Settings, SettingsInvalid, available_cpus, likely_slips, load_settings

OPERATIONS = Path(__file__).resolve().parents[2] / "docs" / "operations.md"


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(f"MILLRACE_{name.upper()}", raising=False)


def test_flags_before_environment_before_file_before_defaults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert load_settings().port == 8000
    file = tmp_path / "millrace.toml"
    file.write_text('port = 1\nhost = "a"\nlog_level = "debug"\n')
    assert load_settings(config=file).port == 1
    monkeypatch.setenv("MILLRACE_CONFIG", str(file))
    monkeypatch.setenv("MILLRACE_PORT", "2")
    monkeypatch.setenv("MILLRACE_HOST", "b")
    settings = load_settings(host="c", port=None)
    assert (settings.port, settings.host, settings.log_level) == (2, "c", "debug")


def test_lists_are_comma_separated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILLRACE_CORS_ORIGINS", "https://a, https://b,")
    assert load_settings().cors_origins == ("https://a", "https://b")


def test_an_empty_token_is_no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILLRACE_ADMIN_TOKEN", "")
    assert load_settings().admin_token is None
    monkeypatch.setenv("MILLRACE_ADMIN_TOKEN", "hush")
    settings = load_settings()
    assert settings.admin_token is not None
    assert "hush" not in repr(settings)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("porto = 1", "porto: unknown setting"),
        ("port = 70000", "port (MILLRACE_PORT)"),
        ("port = ", "not valid TOML"),
        ("admin_token = 5", "(hidden)"),
        ('control = "sometimes"', "control"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "millrace.toml"
    file.write_text(text)
    with pytest.raises(SettingsInvalid, match=re.escape(words)):
        load_settings(config=file)


def test_slips_of_the_pen_are_found() -> None:
    found = likely_slips(["MILLRACE_PROT", "MILLRACE_CACHE_DIRS", "MILLRACE_PORT", "HOME"])
    assert found == [
        ("MILLRACE_CACHE_DIRS", "MILLRACE_CACHE_DIR"),
        ("MILLRACE_PROT", "MILLRACE_PORT"),
    ]
    others = ("AMX", "MODELS", "TEST_DATA", "TORCH_PYTHON", "DB_PASSWORD", "SERVICE_HOST")
    links = ("SERVICE_PORT", "PORT_80_TCP", "PORT_80_TCP_ADDR", "PORT_80_TCP_PROTO")
    assert likely_slips([f"MILLRACE_{name}" for name in (*others, *links)]) == []


def test_what_kubernetes_sets_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILLRACE_PORT", "tcp://10.96.0.12:80")
    with pytest.raises(SettingsInvalid, match="enableServiceLinks: false"):
        load_settings()


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SettingsInvalid, match="does not exist"):
        load_settings(config=tmp_path / "none.toml")


def test_cpus_are_counted() -> None:
    assert available_cpus() >= 1


def test_every_setting_is_documented_as_it_is() -> None:
    table = OPERATIONS.read_text()
    for name, field in Settings.model_fields.items():
        [row] = [line for line in table.splitlines() if line.startswith(f"| `{name}` |")]
        assert f"`MILLRACE_{name.upper()}`" in row, name
        assert field.description is not None, name
        assert field.description.replace("|", "\\|") in row, name
