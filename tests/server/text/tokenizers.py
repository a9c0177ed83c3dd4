"""The small tokenizers of these tests; `make_data.py` has made them."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from server.text import Codec, Tokenizer, load_tokenizer

DATA = Path(__file__).parent / "data"


@cache
def tokenizer(family: str) -> Tokenizer:
    return load_tokenizer(DATA / family)


@cache
def plain_codec() -> Codec:
    """One pair of languages, as the model that ships has it: text and an end, nothing else."""
    marian = tokenizer("marian")
    return Codec(marian.vocabulary, tail=(0,), source="de", target="en")
