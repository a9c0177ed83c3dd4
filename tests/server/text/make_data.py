"""Make the small tokenizers of these tests, and what transformers says about them.

    python -m tests.server.text.make_data      # with transformers 5 and sentencepiece installed

Writes `data/<family>/` and `data/expected.json`: per family, texts with the ids that transformers
gives them and the text that it makes of these ids without special tokens.
"""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import sentencepiece

DATA = Path(__file__).parent / "data"
CORPUS = """
Der Zug nach Hamburg fährt um acht Uhr von Gleis sieben ab. The train to Hamburg leaves at eight.
Meine Großmutter backt jeden Sonntag einen Kuchen. My grandmother bakes a cake every Sunday.
Kannst du mir bitte das Salz geben? Could you pass me the salt, please?
Übermorgen fliegen wir nach Österreich, um Äpfel und Öl zu kaufen! We are flying to Austria.
Ein Junge mit roter Mütze wirft einen Ball. A boy in a red cap throws a ball to his dog.
Tom, John, Ken, Bob, Jim und Bill wohnen hier. They live at number 25, 36, 48, 17, 52 or 63.
Zwei Frauen sitzen auf einer Bank (im Park) & lesen; 90% der Leute gehen zu Fuß. Why not?
Quietschende Reifen, xylophon, Yacht, Jazz, Chor, Vieh, Quark, Pferd, Zwölf, Xaver, Cello, Igel.
ABCDEFGHIJKLMNOPQRSTUVWXYZ abcdefghijklmnopqrstuvwxyz ÄÖÜäöüß 0123456789 .,:;!?"'()-&%+*/=@#_
"""
TEXTS = (
    "Der Zug fährt ab.",
    "Meine Großmutter liest im Park.",
    "",
    " ",
    "  zwei   Leerzeichen  ",
    "Übermorgen 12345 (x) & y",
    "ein Bild \N{GRINNING FACE} und \u4f60\u597d",
    "Tab\tund\nZeile",
    "\ufb01 und \u00c5 und e\u0301",
    "a" * 40,
    "nicht \u00ad\u200bunsichtbar",
    "he doesn't .",
    "\u201eHallo\u201c \u2013 sagte er\u2026",
    "\x07 Glocke",
)


def train(path: Path, **settings: Any) -> sentencepiece.SentencePieceProcessor:
    """Write a tiny SentencePiece model without tables of normalization, which would be large."""
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS.strip().splitlines() * 3),
        model_writer=written,
        normalization_rule_name="identity",
        character_coverage=1.0,
        minloglevel=2,
        num_threads=1,
        **settings,
    )
    path.write_bytes(written.getvalue())
    return sentencepiece.SentencePieceProcessor(model_proto=written.getvalue())


def expectations(tokenizer: Any) -> list[list[Any]]:
    """Return [text, ids, text again] of all texts."""
    rows = []
    for text in TEXTS:
        ids = tokenizer(text)["input_ids"]
        rows.append([text, ids, tokenizer.decode(ids, skip_special_tokens=True)])
    return rows


def make_marian(folder: Path) -> list[list[Any]]:
    """Two models of different sizes, one table of numbers, two target languages."""
    from transformers import MarianTokenizer

    numbers: dict[str, int] = {}
    for side, size in (("source", 190), ("target", 170)):
        kinds = {"bos_id": -1, "eos_id": 0, "unk_id": 1, "pad_id": -1}
        pieces = train(folder / f"{side}.spm", vocab_size=size, **kinds)
        for index in range(pieces.get_piece_size()):
            numbers.setdefault(pieces.id_to_piece(index), len(numbers))
    for token in (">>deu<<", ">>fra<<", "<pad>"):
        numbers[token] = len(numbers)
    (folder / "vocab.json").write_text(json.dumps(numbers))
    files = [str(folder / name) for name in ("source.spm", "target.spm", "vocab.json")]
    tokenizer = MarianTokenizer(*files, source_lang="en", target_lang="de")
    tokenizer.save_pretrained(folder)
    return expectations(tokenizer)


def make_m2m(folder: Path) -> list[list[Any]]:
    """Language tokens that no file lists."""
    from transformers import M2M100Tokenizer

    pieces = train(folder / "sentencepiece.bpe.model", vocab_size=190)
    numbers = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3}
    for index in range(3, pieces.get_piece_size()):
        numbers.setdefault(pieces.id_to_piece(index), len(numbers))
    (folder / "vocab.json").write_text(json.dumps(numbers))
    files = [str(folder / name) for name in ("vocab.json", "sentencepiece.bpe.model")]
    tokenizer = M2M100Tokenizer(*files, src_lang="de", tgt_lang="en")
    tokenizer.save_pretrained(folder)
    return expectations(tokenizer)


def make_hub(folder: Path, class_name: str, file: str, **settings: Any) -> list[list[Any]]:
    """A `tokenizer.json`, as transformers converts it from a SentencePiece model."""
    import transformers

    work = folder / "work"
    work.mkdir()
    kinds = settings.pop("kinds", {})
    train(work / file, vocab_size=190, **kinds)
    tokenizer_class = getattr(transformers, class_name)
    (work / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": class_name}))
    tokenizer = tokenizer_class.from_pretrained(work, **settings)
    if "src_lang" in settings:
        tokenizer.src_lang = settings["src_lang"]
    tokenizer.save_pretrained(folder)
    if class_name == "T5Tokenizer":  # older exports have the SentencePiece model only
        (DATA / "t5_pieces").mkdir()
        shutil.copy(work / file, DATA / "t5_pieces")
    shutil.rmtree(work)
    return expectations(tokenizer)


def main() -> None:
    """Write everything."""
    expected = {}
    shutil.rmtree(DATA, ignore_errors=True)
    languages = {"src_lang": "de_DE", "tgt_lang": "en_XX"}
    nllb = {
        "src_lang": "deu_Latn",
        "tgt_lang": "eng_Latn",
        "extra_special_tokens": ["deu_Latn", "eng_Latn", "zho_Hans", "zho_Hant"],
        "kinds": {"model_type": "bpe"},
    }
    t5_kinds = {"kinds": {"bos_id": -1, "pad_id": 0, "eos_id": 1, "unk_id": 2}, "extra_ids": 2}
    pieces = "sentencepiece.bpe.model"
    makers = {
        "marian": make_marian,
        "m2m": make_m2m,
        "t5": lambda folder: make_hub(folder, "T5Tokenizer", "spiece.model", **t5_kinds),
        "mbart": lambda folder: make_hub(folder, "MBartTokenizer", pieces, **languages),
        "mbart50": lambda folder: make_hub(folder, "MBart50Tokenizer", pieces, **languages),
        "nllb": lambda folder: make_hub(folder, "NllbTokenizer", pieces, **nllb),
    }
    for family, make in makers.items():
        (DATA / family).mkdir(parents=True)
        expected[family] = make(DATA / family)
    text = json.dumps(expected, ensure_ascii=True, indent=0)
    (DATA / "expected.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
