"""Ids and texts are those of transformers; files that cannot be read say so."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.errors import InvalidInput, LoadFailed
from server.text import Codec, Tokenizer, TokenStream, has_tokenizer, load_tokenizer
from tests.server.text.tokenizers import DATA, plain_codec, tokenizer

EXPECTED: dict[str, list[tuple[str, list[int], str]]] = json.loads(
    (DATA / "expected.json").read_text()
)
# Without the token of a target language, which transformers leaves to its caller.
PAIRS = {"m2m": ("de", "en"), "mbart": ("de", "en"), "mbart50": ("de", "en"), "nllb": ("de", "en")}


def codec_of(family: str) -> Codec:
    return plain_codec() if family == "marian" else tokenizer(family).bind(*PAIRS.get(family, ()))


@pytest.mark.parametrize("family", sorted(EXPECTED))
def test_ids_and_texts_are_those_of_transformers(family: str) -> None:
    codec = codec_of(family)
    for text, ids, again in EXPECTED[family]:
        assert list(codec.encode(text)) == ids, text
        assert codec.count(text) == len(ids)
        # transformers takes M2M-100's language for text, and keeps spaces around it.
        assert codec.decode(ids) == again.removeprefix("__de__").strip(), text


@pytest.mark.parametrize(
    ("family", "forced", "lead", "tail"),
    [
        ("m2m", "__en__", ["__de__"], ["</s>"]),
        ("mbart", "en_XX", [], ["</s>", "de_DE"]),
        ("mbart50", "en_XX", ["de_DE"], ["</s>"]),
        ("nllb", "eng_Latn", ["deu_Latn"], ["</s>"]),
    ],
)
@pytest.mark.parametrize("spelling", [("de", "en"), ("DE", "en-GB"), ("deu", "eng_Latn")])
def test_languages_have_tokens(
    family: str, forced: str, lead: list[str], tail: list[str], spelling: tuple[str, str]
) -> None:
    codec = tokenizer(family).bind(*spelling)
    by_default = tokenizer(family).bind()
    number = token_numbers(family)
    if family == "nllb":  # its file declares no target
        by_default = tokenizer(family).bind(target="en")
    assert codec.forced_first == number[forced]
    assert list(codec.lead) == [number[token] for token in lead]
    assert list(codec.tail) == [number[token] for token in tail]
    assert codec == by_default


def token_numbers(family: str) -> dict[str, int]:
    if family == "m2m":
        numbers = json.loads((DATA / family / "vocab.json").read_text())
        languages = list(tokenizer(family).tokens)
        assert len(languages) == 100
        assert languages[:2] == ["af", "am"]
        return numbers | {f"__{name}__": len(numbers) + i for i, name in enumerate(languages)}
    added = json.loads((DATA / family / "tokenizer.json").read_text())["added_tokens"]
    return {token["content"]: token["id"] for token in added}


def test_marian_puts_the_target_language_in_front_of_the_source() -> None:
    numbers = json.loads((DATA / "marian" / "vocab.json").read_text())
    marian = tokenizer("marian")
    assert marian.source_languages == ("en",)
    assert marian.target_languages == ("de", "fr")
    assert marian.bind().encode("")[0] == numbers[">>deu<<"]
    assert marian.bind("en", "fr").encode("Zug")[0] == numbers[">>fra<<"]
    assert marian.bind("en", "fr").forced_first is None


def test_scripts_of_one_language_are_told_apart() -> None:
    nllb = tokenizer("nllb")
    hans, hant = (nllb.bind("zh_Hans", "en"), nllb.bind("zho-Hant", "en"))
    assert hans.source == "zho_Hans"
    assert hant.source == "zho_Hant"
    assert hans.lead != hant.lead


def t5_with_tasks(folder: Path) -> Tokenizer:
    shutil.copytree(DATA / "t5", folder, dirs_exist_ok=True)
    tasks = {
        "summarization": {"prefix": "summarize: "},
        "translation_en_to_de": {"prefix": "translate English to German: ", "num_beams": 4},
        "translation_en_to_fr": {"prefix": "translate English to French: "},
    }
    (folder / "config.json").write_text(json.dumps({"task_specific_params": tasks}))
    return load_tokenizer(folder)


def test_t5_is_told_in_words(tmp_path: Path) -> None:
    t5 = t5_with_tasks(tmp_path)
    plain = tokenizer("t5").bind()
    codec = t5.bind()
    assert codec.encode("Tom") == plain.encode("translate English to German: Tom")
    assert codec.settings == {"num_beams": 4}
    assert (codec.source, codec.target) == ("en", "de")
    assert t5.bind(target="fr").prefix == "translate English to French: "
    assert t5.target_languages == ("de", "fr")
    with pytest.raises(InvalidInput, match="en to de, en to fr"):
        t5.bind("de", "en")


def test_t5_without_a_tokenizer_json_is_the_same() -> None:
    pieces = tokenizer("t5_pieces").bind()
    assert (tokenizer("t5_pieces").end, tokenizer("t5_pieces").padding) == (1, 0)
    for text, ids, again in EXPECTED["t5"]:
        if "\t" not in text:  # white space of this small model is the space alone
            assert list(pieces.encode(text)) == ids, text
            assert pieces.decode(ids) == again.strip()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("added_tokens.json", '{"__de__": 300, "__en__": 301}'),
        ("special_tokens_map.json", '{"additional_special_tokens": ["__de__", "__en__"]}'),
        ("tokenizer_config.json", '{"additional_special_tokens": ["__de__", "__en__"]}'),
        (
            "tokenizer_config.json",
            '{"added_tokens_decoder":{"300":{"content":"__de__"},"301":{"content":"__en__"}}}',
        ),
    ],
)
def test_m2m_languages_may_be_listed_in_many_ways(tmp_path: Path, name: str, content: str) -> None:
    shutil.copytree(DATA / "m2m", tmp_path, dirs_exist_ok=True)
    (tmp_path / name).write_text(content)
    m2m = load_tokenizer(tmp_path)
    assert m2m.target_languages == ("de", "en")
    first = 300 if "300" in content else len(json.loads((tmp_path / "vocab.json").read_text()))
    assert m2m.bind("de", "en").lead == (first,)
    assert m2m.bind("de", "en").forced_first == first + 1


def test_spaces_are_tidied_where_the_files_ask_for_it(tmp_path: Path) -> None:
    shutil.copytree(DATA / "t5", tmp_path, dirs_exist_ok=True)
    (tmp_path / "tokenizer_config.json").write_text('{"clean_up_tokenization_spaces": true}')
    codec = load_tokenizer(tmp_path).bind()
    assert codec.decode(codec.encode("does n't it , no ?")) == "doesn't it, no?"


@pytest.mark.parametrize("family", sorted(PAIRS))
def test_unknown_languages_are_refused(family: str) -> None:
    with pytest.raises(InvalidInput, match="'tlh'") as caught:
        tokenizer(family).bind("tlh", "en")
    assert caught.value.extra["field"] == "source"
    with pytest.raises(InvalidInput, match="target"):
        tokenizer(family).bind("de", "klingon" * 50)


def test_one_declared_pair_is_the_only_one() -> None:
    marian = load_tokenizer(DATA / "marian", source="de", target="en")
    plain = Tokenizer(marian.vocabulary, default_source="de", default_target="en")
    assert plain.bind().source == "de"
    assert plain.bind("deu", "en-US").target == "en"
    with pytest.raises(InvalidInput, match="as a source language"):
        plain.bind("fr")
    undeclared = Tokenizer(marian.vocabulary)
    assert undeclared.bind("de", "en").target == "en"
    assert undeclared.source_languages == ()


@pytest.mark.parametrize("family", sorted(EXPECTED))
def test_special_tokens_in_a_text_are_no_special_tokens(family: str) -> None:
    known = tokenizer(family)
    codec = codec_of(family)
    words = codec.vocabulary.encode("</s> Tom <pad> <unk> <s> __de__ >>deu<< de_DE deu_Latn")
    special = {known.end, known.padding, *known.tokens.values()}
    assert special.isdisjoint(words)
    assert max(words) < known.vocabulary.size


@pytest.mark.parametrize("family", sorted(EXPECTED))
@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
@settings(max_examples=25, deadline=None)
def test_any_text_has_ids_and_any_ids_have_text(family: str, text: str) -> None:
    codec = codec_of(family)
    ids = codec.encode(text)
    assert all(0 <= number < codec.vocabulary.size for number in ids)
    assert codec.decode(ids) == codec.decode(ids[: len(ids) - len(codec.tail)])
    assert codec.decode([*ids, 10**9, -1]) == codec.decode(ids)


@pytest.mark.parametrize("family", sorted(EXPECTED))
def test_a_growing_sequence_never_takes_back_text(family: str) -> None:
    codec = codec_of(family)
    text = "Meine Gro\N{LATIN SMALL LETTER SHARP S}mutter liest im Park, nicht wahr?"
    ids = codec.vocabulary.encode(text)
    stream = codec.stream()
    shown = [stream.push(ids[: end + 1]) for end in range(len(ids))]
    assert all(later.startswith(sooner) for sooner, later in pairwise(shown))
    assert len(set(shown)) > len(ids) // 2  # it does come piece by piece
    assert shown[-1] == stream.finish(ids) == codec.decode(ids) == text


def test_a_stream_holds_back_what_is_unfinished_or_taken_back() -> None:
    texts = {1: "a\ufffd", 2: "a\u00e4", 3: "b", 4: "a\u00e4c"}

    def decode(tokens: Sequence[int]) -> str:
        return texts[len(tokens)]

    stream = TokenStream(decode)
    shown = [stream.push([0] * count) for count in (1, 2, 3, 4)]
    assert shown == ["a", "a\u00e4", "a\u00e4", "a\u00e4c"]


# --- files


def broken(tmp_path: Path, family: str, name: str, content: bytes) -> Path:
    folder = tmp_path / family
    shutil.copytree(DATA / family, folder)
    (folder / name).write_bytes(content)
    return folder


@pytest.mark.parametrize(
    ("family", "name", "content", "complaint"),
    [
        ("marian", "source.spm", b"", "source.spm is not a SentencePiece model"),
        ("marian", "target.spm", b"\x00\xff" * 99, "target.spm is not a SentencePiece model"),
        ("marian", "vocab.json", b"{", "vocab.json is not JSON"),
        ("marian", "vocab.json", b"\xff\xfe", "vocab.json is not JSON"),
        ("marian", "vocab.json", b"[" * 100_000, "vocab.json is not JSON"),
        ("marian", "vocab.json", b"[1]", "expected an object, got list"),
        ("marian", "vocab.json", b"{}", "has 0 tokens"),
        ("marian", "vocab.json", b'{"a": 0, "b": 0}', "two tokens share an id"),
        ("marian", "vocab.json", b'{"a": true}', "must be a number"),
        ("marian", "vocab.json", b'{"a": -1}', "must be a number"),
        ("marian", "vocab.json", b'{"a": 99999999999}', "must be a number"),
        ("marian", "vocab.json", b'{"a": 0}', "lacks the special token '<unk>'"),
        ("marian", "tokenizer_config.json", b"7", "expected an object, got int"),
        ("m2m", "sentencepiece.bpe.model", b"x", "is not a SentencePiece model"),
        ("m2m", "tokenizer_config.json", b'{"language_codes": "?"}', "no language tokens"),
        ("mbart", "tokenizer.json", b"{}", "tokenizer.json is not a tokenizer"),
        ("mbart", "tokenizer.json", b"[" * 100_000, "tokenizer.json is not a tokenizer"),
        ("mbart", "tokenizer.json", b"\x80", "tokenizer.json is not a tokenizer"),
    ],
)
def test_damaged_files_are_named(
    tmp_path: Path, family: str, name: str, content: bytes, complaint: str
) -> None:
    with pytest.raises(LoadFailed, match=complaint):
        load_tokenizer(broken(tmp_path, family, name, content))


def test_files_have_a_largest_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.text.reading.MAX_FILE_BYTES", 1000)
    with pytest.raises(LoadFailed, match="is larger than"):
        load_tokenizer(DATA / "marian")


def test_a_folder_without_a_tokenizer_says_what_it_lacks(tmp_path: Path) -> None:
    assert not has_tokenizer(tmp_path)
    assert all(has_tokenizer(DATA / family) for family in EXPECTED)
    with pytest.raises(LoadFailed, match=r"expected source\.spm"):
        load_tokenizer(tmp_path)


@given(damage=st.binary(min_size=1, max_size=30), at=st.floats(0, 1))
@settings(max_examples=40, deadline=None)
def test_damaged_models_fail_or_load(
    tmp_path_factory: pytest.TempPathFactory, damage: bytes, at: float
) -> None:
    folder = tmp_path_factory.mktemp("damaged")
    shutil.copytree(DATA / "marian", folder, dirs_exist_ok=True)
    whole = (folder / "source.spm").read_bytes()
    place = int(at * len(whole))
    (folder / "source.spm").write_bytes(whole[:place] + damage + whole[place + len(damage) :])
    try:
        codec = load_tokenizer(folder).bind()
    except LoadFailed:
        return
    assert max(codec.encode("Der Zug f\u00e4hrt.")) < codec.vocabulary.size
