"""From a model's folder to its tokenizer: which files there are decides how they are read.

    source.spm, target.spm, vocab.json       Marian (OPUS-MT)
    tokenizer.json                           T5, mBART, NLLB and others, as the tokenizers library
    sentencepiece.bpe.model, vocab.json      M2M-100
    spiece.model                             T5 without a tokenizer.json

`tokenizer_config.json`, `added_tokens.json`, `special_tokens_map.json` and `config.json` add what
these do not say.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from server.errors import LoadFailed

from .hub import HubVocabulary, frame_of, language_tokens, read_tokenizer, unknown_of
from .languages import M2M_FAMILIES, language_of_token
from .pieces import PieceVocabulary, read_pieces
from .reading import number_of, read_json_if_there, read_numbers, token_name
from .tokenizer import SOURCE, Task, Tokenizer

MARIAN = ("source.spm", "target.spm", "vocab.json")
M2M = ("sentencepiece.bpe.model", "vocab.json")
HUB = ("tokenizer.json",)
T5 = ("spiece.model",)
TASK_NAME = re.compile(r"translation_([a-z]{2,3})_to_([a-z]{2,3})")


def has_tokenizer(folder: Path) -> bool:
    """Return whether a folder has the files of a tokenizer that `load_tokenizer` reads."""
    return any(_has(folder, files) for files in (MARIAN, HUB, M2M, T5))


def load_tokenizer(folder: Path, source: str | None = None, target: str | None = None) -> Tokenizer:
    """Read the tokenizer of a model.

    Args:
        folder: Where the files lie.
        source: The source language where none is named, instead of what the files say.
        target: The target language likewise.

    Raises:
        LoadFailed: A file is missing, damaged, too large, or contradicts another.
    """
    settings = read_json_if_there(folder / "tokenizer_config.json")
    if _has(folder, MARIAN):
        tokenizer = _marian(folder, settings)
    elif _has(folder, HUB):
        tokenizer = _hub(folder, settings)
    elif _has(folder, M2M):
        tokenizer = _m2m(folder, settings)
    elif _has(folder, T5):
        tokenizer = _t5(folder, settings)
    else:
        raise LoadFailed(
            "no tokenizer: expected source.spm, target.spm and vocab.json, or tokenizer.json"
        )
    return replace(
        tokenizer,
        tasks=_tasks(read_json_if_there(folder / "config.json")),
        default_source=source or _text(settings, "source_lang") or _text(settings, "src_lang"),
        default_target=target or _text(settings, "target_lang") or _text(settings, "tgt_lang"),
    )


def _has(folder: Path, files: tuple[str, ...]) -> bool:
    return all((folder / name).is_file() for name in files)


def _text(settings: Mapping[str, Any], name: str) -> str | None:
    value = settings.get(name)
    return value if isinstance(value, str) and value else None


def _marian(folder: Path, settings: Mapping[str, Any]) -> Tokenizer:
    numbers = read_numbers(folder / "vocab.json")
    separate = settings.get("separate_vocabs") is True
    target_numbers = read_numbers(folder / "target_vocab.json") if separate else None
    names = {
        name: token_name(settings, f"{name}_token", default)
        for name, default in (("unk", "<unk>"), ("eos", "</s>"), ("pad", "<pad>"))
    }
    special = {key: number_of(numbers, token, "vocab.json") for key, token in names.items()}
    written = target_numbers or numbers
    vocabulary = PieceVocabulary(
        read_pieces(folder / "source.spm"),
        read_pieces(folder / "target.spm"),
        numbers,
        unknown=special["unk"],
        hidden=[written[token] for token in names.values() if token in written],
        target_numbers=target_numbers,
    )
    tokens = _languages({token: n for token, n in numbers.items() if token.startswith(">>")})
    return Tokenizer(
        vocabulary,
        tail=(special["eos"],),
        tokens=tokens,
        target_in_source=bool(tokens),
        end=special["eos"],
        padding=special["pad"],
    )


def _hub(folder: Path, settings: Mapping[str, Any]) -> Tokenizer:
    tokenizer, content = read_tokenizer(folder / "tokenizer.json")
    tokens = language_tokens(tokenizer)
    spelled = {str(tokenizer.id_to_token(number)) for number in tokens.values()}
    lead, tail = frame_of(tokenizer, content, spelled)
    tidy = settings.get("clean_up_tokenization_spaces") is True
    vocabulary = HubVocabulary(tokenizer, unknown=unknown_of(tokenizer, content), tidy=tidy)
    names = {key: token_name(settings, f"{key}_token", "") for key in ("eos", "pad")}
    return Tokenizer(
        vocabulary,
        lead=tuple(lead),
        tail=tuple(tail),
        tokens=tokens if SOURCE in (*lead, *tail) else {},
        end=tokenizer.token_to_id(names["eos"]),
        padding=tokenizer.token_to_id(names["pad"]),
    )


def _m2m(folder: Path, settings: Mapping[str, Any]) -> Tokenizer:
    numbers = read_numbers(folder / "vocab.json")
    tokens = _m2m_languages(folder, settings, len(numbers))
    if not tokens:
        raise LoadFailed("no language tokens such as __de__ in the tokenizer's configuration")
    special = {
        key: number_of(numbers, token_name(settings, f"{key}_token", default), "vocab.json")
        for key, default in (("unk", "<unk>"), ("eos", "</s>"), ("pad", "<pad>"), ("bos", "<s>"))
    }
    pieces = read_pieces(folder / "sentencepiece.bpe.model")
    every = {**numbers, **{f"__{language}__": number for language, number in tokens.items()}}
    hidden = [*special.values(), *tokens.values()]
    vocabulary = PieceVocabulary(pieces, pieces, every, unknown=special["unk"], hidden=hidden)
    return Tokenizer(
        vocabulary,
        lead=(SOURCE,),
        tail=(special["eos"],),
        tokens=tokens,
        end=special["eos"],
        padding=special["pad"],
    )


def _m2m_languages(folder: Path, settings: Mapping[str, Any], first: int) -> dict[str, int]:
    """Return language -> id of the tokens that follow `vocab.json`, whichever file lists them."""
    numbered = settings.get("added_tokens_decoder")
    listed = read_json_if_there(folder / "added_tokens.json")
    if isinstance(numbered, dict):
        listed |= {
            str(entry.get("content")): int(number)
            for number, entry in numbered.items()
            if isinstance(entry, dict) and number.isdecimal()
        }
    found = _languages(listed)
    if not found:
        names = settings.get("additional_special_tokens")
        if not isinstance(names, list):
            special = read_json_if_there(folder / "special_tokens_map.json")
            names = special.get("additional_special_tokens")
        names = names if isinstance(names, list) else []
        found = _languages({str(name): first + index for index, name in enumerate(names)})
    if not found:
        family = M2M_FAMILIES.get(str(settings.get("language_codes", "m2m100")), [])
        found = {language: first + index for index, language in enumerate(family)}
    return found


def _languages(tokens: Mapping[str, Any]) -> dict[str, int]:
    return {
        language: number
        for token, number in tokens.items()
        if (language := language_of_token(token)) is not None and type(number) is int
    }


def _t5(folder: Path, settings: Mapping[str, Any]) -> Tokenizer:
    pieces = read_pieces(folder / "spiece.model")
    numbers = {pieces.id_to_piece(number): number for number in range(pieces.get_piece_size())}
    special = {
        key: number_of(numbers, token_name(settings, f"{key}_token", default), "spiece.model")
        for key, default in (("unk", "<unk>"), ("eos", "</s>"), ("pad", "<pad>"))
    }
    hidden = list(special.values())
    vocabulary = PieceVocabulary(pieces, pieces, numbers, unknown=special["unk"], hidden=hidden)
    return Tokenizer(vocabulary, tail=(special["eos"],), end=special["eos"], padding=special["pad"])


def _tasks(config: Mapping[str, Any]) -> tuple[Task, ...]:
    """Return the translations among T5's tasks, as `config.json` lists them."""
    listed = config.get("task_specific_params")
    tasks = []
    for name, task in listed.items() if isinstance(listed, dict) else ():
        found = TASK_NAME.fullmatch(name)
        if found and isinstance(task, dict) and isinstance(task.get("prefix"), str):
            settings = {key: value for key, value in task.items() if key != "prefix"}
            tasks.append(Task(found[1], found[2], task["prefix"], settings))
    return tuple(tasks)
