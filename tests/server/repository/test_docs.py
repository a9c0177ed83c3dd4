"""The documentation names every key of `model.toml`."""

from pathlib import Path

from pydantic import BaseModel

from server.model_config import ModelConfig

DOCS = Path(__file__).parents[3] / "docs" / "repository.md"


def keys(model: type[BaseModel]) -> set[str]:
    """Return all keys of a section and of the sections in it."""
    found = set(model.model_fields)
    for field in model.model_fields.values():
        options = getattr(field.annotation, "__args__", (field.annotation,))
        for option in options:
            if isinstance(option, type) and issubclass(option, BaseModel):
                found |= keys(option)
    return found


def test_every_key_of_model_toml_is_documented():
    known = keys(ModelConfig)
    assert {"resize_short", "latest", "rtol"} <= known
    text = DOCS.read_text(encoding="utf-8")
    named = {name for name in known if f"`{name}`" in text or f"[{name}]" in text}
    assert known - named <= {"latest", "specific"}  # shown as `{ latest = N }`
    assert "latest = N" in text and "specific = [" in text
