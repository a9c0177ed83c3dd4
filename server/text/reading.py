"""Reading tokenizer files that anybody may have written: bounded; errors name the file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from server.errors import LoadFailed

MIB = 1 << 20
MAX_FILE_BYTES = 64 * MIB  # the largest known, of 260,000 tokens, has 33 MiB
MAX_TOKENS = 4_000_000
MAX_TOKEN_LENGTH = 1024


def read_bytes(path: Path) -> bytes:
    """Return a file's content.

    Raises:
        LoadFailed: It cannot be read, or is larger than any tokenizer is.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise LoadFailed(f"{path.name} cannot be read: {error.strerror}") from error
    if len(data) > MAX_FILE_BYTES:
        raise LoadFailed(f"{path.name} is larger than {MAX_FILE_BYTES // MIB} MiB")
    return data


def read_json(path: Path) -> dict[str, Any]:
    """Return the object that a JSON file holds.

    Raises:
        LoadFailed: It is no JSON, or no object.
    """
    try:
        value = json.loads(read_bytes(path))
    except (ValueError, RecursionError) as error:
        raise LoadFailed(f"{path.name} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise LoadFailed(f"{path.name}: expected an object, got {type(value).__name__}")
    return value


def read_json_if_there(path: Path) -> dict[str, Any]:
    """Return the object of a JSON file, or an empty one where there is no such file."""
    return read_json(path) if path.is_file() else {}


def read_numbers(path: Path) -> dict[str, int]:
    """Return a vocabulary: token -> id, each id once.

    Raises:
        LoadFailed: It is something else.
    """
    numbers = read_json(path)
    if not numbers or len(numbers) > MAX_TOKENS:
        raise LoadFailed(f"{path.name} has {len(numbers)} tokens, expected 1 to {MAX_TOKENS}")
    for token, number in numbers.items():
        if type(number) is not int or not 0 <= number < MAX_TOKENS:
            raise LoadFailed(f"{path.name}: the id of {token[:40]!r} must be a number from 0 up")
        if len(token) > MAX_TOKEN_LENGTH:
            raise LoadFailed(f"{path.name}: the token {token[:40]!r}... is too long")
    if len(set(numbers.values())) != len(numbers):
        raise LoadFailed(f"{path.name}: two tokens share an id")
    return numbers


def token_name(settings: Mapping[str, Any], name: str, default: str) -> str:
    """Return how a special token is written, from `tokenizer_config.json`."""
    value = settings.get(name, default)
    if isinstance(value, dict):
        value = value.get("content", default)
    return value if isinstance(value, str) else default


def number_of(numbers: Mapping[str, int], token: str, file: str) -> int:
    """Return the id of a token that a vocabulary must have."""
    if token not in numbers:
        raise LoadFailed(f"{file} lacks the special token {token!r}")
    return numbers[token]
