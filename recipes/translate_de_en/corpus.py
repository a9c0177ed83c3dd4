"""The sentence pairs: Multi30k's official splits, and Tatoeba split by English sentence."""

from __future__ import annotations

import gzip
import hashlib
import io
import re
import unicodedata
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from recipes.common.data import DataMalformed, DataNotFound, existing_folder

TATOEBA_HELD_OUT = 100                    # one in so many English sentences validates
WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Pair:
    """A sentence and its translation."""

    german: str
    english: str


@dataclass(frozen=True)
class Corpus:
    """Training pairs by source, and what measures the result."""

    captions: list[Pair]                  # Multi30k train
    everyday: list[Pair]                  # Tatoeba, without what validates
    validation: list[Pair]                # Multi30k val
    everyday_validation: list[Pair]
    test: list[Pair]                      # Multi30k test_2016_flickr


def load_corpus(folder: Path) -> Corpus:
    """Read `multi30k/` and `deu-eng.zip` from a folder.

    Training pairs whose German or English side, compared by words alone, stands in one of
    Multi30k's validation or test files are left out. One English sentence of Tatoeba often has
    several German ones; all of them fall on the same side of the split.
    """
    folder = existing_folder(folder)
    captions = _multi30k(folder, "train")
    validation = _multi30k(folder, "val")
    test = _multi30k(folder, "test_2016_flickr")
    others = [
        pair
        for path in sorted((folder / "multi30k").glob("test_*.de.gz"))
        for pair in _multi30k(folder, path.name.removesuffix(".de.gz"))
    ]
    held = {key for pair in (*validation, *test, *others) for key in _keys(pair)}
    everyday = [pair for pair in _tatoeba(folder) if not held.intersection(_keys(pair))]
    captions = [pair for pair in captions if not held.intersection(_keys(pair))]
    train = [pair for pair in everyday if not _validates(pair)]
    return Corpus(captions, train, validation, [p for p in everyday if _validates(p)], test)


def normalized(text: str) -> str:
    """Return NFKC text with single spaces: what the vocabulary is trained on."""
    return " ".join(unicodedata.normalize("NFKC", text).split())


def _keys(pair: Pair) -> tuple[str, str]:
    return "de " + _words(pair.german), "en " + _words(pair.english)


def _words(text: str) -> str:
    return " ".join(WORD.findall(text.casefold()))


def _validates(pair: Pair) -> bool:
    digest = hashlib.sha256(_words(pair.english).encode()).digest()
    return int.from_bytes(digest[:8], "big") % TATOEBA_HELD_OUT == 0


def _multi30k(folder: Path, split: str) -> list[Pair]:
    german, english = (
        _gzip_lines(folder / "multi30k" / f"{split}.{language}.gz") for language in ("de", "en")
    )
    if len(german) != len(english):
        raise DataMalformed(f"{split}: {len(german)} German but {len(english)} English lines")
    return _pairs(zip(german, english, strict=True))


def _gzip_lines(path: Path) -> list[str]:
    if not path.is_file():
        raise DataNotFound(f"{path} is missing: one sentence a line, gzip")
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return file.read().splitlines()


def _tatoeba(folder: Path) -> list[Pair]:
    path = folder / "deu-eng.zip"
    if not path.is_file():
        raise DataNotFound(f"{path} is missing: an archive with deu.txt, English<TAB>German")
    with zipfile.ZipFile(path) as archive, archive.open("deu.txt") as file:
        lines = io.TextIOWrapper(file, encoding="utf-8").read().splitlines()
    columns = [line.split("\t") for line in lines if line.count("\t") >= 1]
    return _pairs((german, english) for english, german, *_ in columns)


def _pairs(texts: Iterable[tuple[str, str]]) -> list[Pair]:
    cleaned = ((normalized(german), normalized(english)) for german, english in texts)
    return [Pair(german, english) for german, english in cleaned if german and english]
