"""Put a version's configuration together: `model.toml`, and what its own files say.

A version may have a `model.toml` of its own, for what it was made with; it wins over the model's,
and both over files of other kinds. `[preprocess]` wins as a whole, since half of one recipe and
half of another would be a third that nobody trained with; other sections win key by key.
"""

from __future__ import annotations

import json
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from server.model_config import ModelConfig
from server.repository import huggingface
from server.repository.layout import CONFIG_FILE

LABELS_FILE = "labels.txt"
HF_CONFIG_FILE = "config.json"
HF_PROCESSOR_FILE = "preprocessor_config.json"
HF_GENERATION_FILE = "generation_config.json"
HF_TOKENIZER_FILE = "tokenizer_config.json"
# What a text model has beside its graphs: in the version's folder, or beside model.toml.
TEXT_FILES = (
    *("tokenizer.json", HF_TOKENIZER_FILE, HF_GENERATION_FILE, "special_tokens_map.json"),
    *("added_tokens.json", "vocab.json", "source.spm", "target.spm", "spiece.model"),
    *("sentencepiece.bpe.model", "sentencepiece.model"),
)
SHARED_FILES = (LABELS_FILE, HF_CONFIG_FILE, HF_PROCESSOR_FILE, *TEXT_FILES)
MAX_TEXT_BYTES = 64 << 20
# Which versions there are for whom is the model's to say, not one version's.
MODEL_ONLY_KEYS = frozenset({"version_policy", "version_labels"})


class ConfigInvalid(ValueError):
    """A configuration file cannot be used; the message names file, key and what was expected."""


@dataclass(frozen=True)
class VersionConfig:
    """What one version is served with."""

    config: ModelConfig
    labels: tuple[str, ...] | None


def read_model_config(folder: Path) -> dict[str, Any]:
    """Return the checked contents of `<model>/model.toml`; an absent file is an empty one.

    Raises:
        ConfigInvalid: it is not TOML, or a key or value is wrong.
    """
    body = _read_toml(folder / CONFIG_FILE)
    parse_model_config(body)
    return body


def _read_toml(path: Path) -> dict[str, Any]:
    raw = _read_bytes(path)
    if raw is None:
        return {}
    try:
        return tomllib.loads(raw.decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigInvalid(f"{CONFIG_FILE}: not valid TOML: {error}") from error


def parse_model_config(body: dict[str, Any]) -> ModelConfig:
    """Validate the keys of a `model.toml`.

    Raises:
        ConfigInvalid: naming the first wrong key and what was expected.
    """
    try:
        return ModelConfig.model_validate(body)
    except ValidationError as error:
        raise ConfigInvalid(_explain(error)) from error


def _explain(error: ValidationError) -> str:
    fault = error.errors()[0]
    key = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        known = _known_keys(ModelConfig, fault["loc"][:-1])
        return f"{CONFIG_FILE}: {key}: unknown key; expected one of {', '.join(known)}"
    return f"{CONFIG_FILE}: {key}: {fault['msg']}, got {fault['input']!r}"


def _known_keys(model: type[BaseModel], path: tuple[int | str, ...]) -> list[str]:
    if not path:
        return sorted(model.model_fields)
    field = model.model_fields.get(str(path[0]))
    options = getattr(field.annotation, "__args__", (field.annotation,)) if field else ()
    for option in options:
        if isinstance(option, type) and issubclass(option, BaseModel):
            return _known_keys(option, path[1:])
    return []


def version_config(body: dict[str, Any], model_folder: Path, folder: Path) -> VersionConfig:
    """Merge a checked `model.toml` with the files of one version.

    Raises:
        ConfigInvalid: one of the files cannot be used.
    """
    hf_config = read_json(HF_CONFIG_FILE, folder, model_folder) or {}
    if folder != model_folder:
        body = _merged(body, _own_config(folder))
    try:
        merged = _merged(huggingface.model_sections(hf_config), body)
        if "preprocess" not in body:
            processor = read_json(HF_PROCESSOR_FILE, folder, model_folder)
            if processor is not None:
                merged["preprocess"] = huggingface.preprocess_section(processor)
        config = parse_model_config(merged)
        labels = _labels(config, model_folder, folder) or huggingface.class_names(hf_config)
    except huggingface.ProcessorInvalid as error:
        raise ConfigInvalid(f"{HF_PROCESSOR_FILE} or {HF_CONFIG_FILE}: {error}") from error
    return VersionConfig(config, labels)


def _own_config(folder: Path) -> dict[str, Any]:
    """Return the checked contents of a version's own `model.toml`."""
    try:
        body = _read_toml(folder / CONFIG_FILE)
        parse_model_config(body)
    except ConfigInvalid as error:
        raise ConfigInvalid(f"{folder.name}/{error}") from error
    if wrong := MODEL_ONLY_KEYS & body.keys():
        raise ConfigInvalid(
            f"{folder.name}/{CONFIG_FILE}: {min(wrong)}: this is said for the whole model, in the "
            f"{CONFIG_FILE} beside its versions"
        )
    return body


def _merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Return both, where `above` wins: key by key within sections, but `[preprocess]` whole."""
    merged = {**below, **above}
    for name, section in below.items():
        over = above.get(name)
        if name != "preprocess" and isinstance(section, dict) and isinstance(over, dict):
            merged[name] = {**section, **over}
    return merged


def _labels(config: ModelConfig, model_folder: Path, folder: Path) -> tuple[str, ...] | None:
    name = config.class_labels or LABELS_FILE
    raw = _read_first(name, folder, model_folder)
    if raw is None:
        if config.class_labels is None:
            return None
        raise ConfigInvalid(
            f"{CONFIG_FILE}: class_labels: no file {name!r} in the version's folder "
            "or beside model.toml"
        )
    try:
        lines = raw.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ConfigInvalid(f"{name}: expected UTF-8 text, one class name a line") from error
    while lines and not lines[-1].strip():
        lines.pop()
    return tuple(line.strip() for line in lines)


def read_json(name: str, *folders: Path) -> dict[str, Any] | None:
    """Return the object of the first file of this name in the folders; None if there is none.

    Raises:
        ConfigInvalid: it cannot be read, or is not a JSON object.
    """
    raw = _read_first(name, *folders)
    if raw is None:
        return None
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise ConfigInvalid(f"{name}: not valid JSON: {error}") from error
    if not isinstance(body, dict):
        raise ConfigInvalid(f"{name}: expected a JSON object, got {type(body).__name__}")
    return body


def _read_first(name: str, *folders: Path) -> bytes | None:
    for folder in folders:
        raw = _read_bytes(folder / name)
        if raw is not None:
            return raw
    return None


def _read_bytes(path: Path) -> bytes | None:
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_TEXT_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise ConfigInvalid(f"{path.name}: cannot be read: {error.strerror}") from error
    if len(raw) > MAX_TEXT_BYTES:
        raise ConfigInvalid(f"{path.name}: longer than {MAX_TEXT_BYTES} bytes")
    return raw
