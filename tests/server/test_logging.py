from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator

import pytest

from server.logging import JsonFormatter, TextFormatter, set_up_logging
from server.settings import Settings


def record(message: str, **extra: object) -> logging.LogRecord:
    made = logging.makeLogRecord({"name": "a.b", "levelno": 20, "levelname": "INFO", **extra})
    made.msg = message
    made.created = 0.25
    return made


def test_text() -> None:
    line = TextFormatter().format(record("hello"))
    assert line == "1970-01-01T00:00:00.250Z INFO    a.b: hello"


def test_a_client_cannot_forge_a_line() -> None:
    assert "\n" not in TextFormatter().format(record("x\n1970-01-01 ERROR forged"))


def test_json_with_extra_fields_and_exceptions() -> None:
    line = json.loads(JsonFormatter().format(record("hello", request_id="7")))
    assert (line["message"], line["level"], line["request_id"]) == ("hello", "info", "7")
    try:
        raise ValueError("broken")
    except ValueError:
        line = json.loads(JsonFormatter().format(record("x", exc_info=sys.exc_info())))
    assert "ValueError: broken" in line["exception"]
    assert "\n" in TextFormatter().format(record("x", exc_info=(ValueError, ValueError("b"), None)))


@pytest.fixture
def kept_logging() -> Iterator[None]:
    names = ("", "uvicorn", "uvicorn.error", "uvicorn.access")
    before = {
        name: (logging.getLogger(name).handlers[:], logging.getLogger(name).level) for name in names
    }
    yield
    for name, (handlers, level) in before.items():
        logging.getLogger(name).handlers[:] = handlers
        logging.getLogger(name).setLevel(level)


@pytest.mark.usefixtures("kept_logging")
def test_set_up(capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logging(Settings(log_format="json", log_level="warning"))
    logging.getLogger("millrace.test").info("quiet")
    logging.getLogger("millrace.test").warning("loud")
    lines = capsys.readouterr().err.splitlines()
    assert [json.loads(line)["message"] for line in lines] == ["loud"]
    set_up_logging(Settings(log_format="text"))
    logging.getLogger("uvicorn.error").info("a note of uvicorn's")
    logging.getLogger("millrace.test").info("ours")
    assert capsys.readouterr().err.endswith("ours\n")
