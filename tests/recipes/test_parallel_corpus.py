"""The sentence pairs that train translation: read, cleaned, and kept apart from what measures."""

import gzip
import zipfile
from pathlib import Path

import pytest

from recipes.common.data import DataMalformed, DataNotFound
from recipes.translate_de_en.corpus import Corpus, Pair, load_corpus, normalized
from recipes.translate_de_en.vocabulary import Vocabulary, load_vocabulary, train_vocabulary

SPLITS = {
    "train": [("Ein Hund läuft.", "A dog runs."), ("Zwei Kinder spielen.", "Two kids play.")],
    "val": [("Ein Mann steht.", "A man stands.")],
    "test_2016_flickr": [("Zwei Kinder spielen!", "two  kids play")],
    "test_2018_flickr": [("Der Ball ist rot.", "The ball is red.")],
}
TATOEBA = [
    ("Hi.", "Hallo!"),
    ("Hi.", "Grüß Gott!"),
    ("A man stands.", "Da steht ein Mann."),
    ("It is red.", "Der Ball ist rot."),
    *((f"I have {k} apples.", f"Ich habe {k} Äpfel.") for k in range(300)),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "multi30k").mkdir()
    for split, pairs in SPLITS.items():
        for language, side in (("de", 0), ("en", 1)):
            with gzip.open(tmp_path / "multi30k" / f"{split}.{language}.gz", "wt") as file:
                file.write("".join(pair[side] + "\n" for pair in pairs))
    with zipfile.ZipFile(tmp_path / "deu-eng.zip", "w") as archive:
        archive.writestr("deu.txt", "".join(f"{en}\t{de}\n" for en, de in TATOEBA))
    return tmp_path


@pytest.fixture
def corpus(folder: Path) -> Corpus:
    return load_corpus(folder)


def test_no_sentence_that_measures_trains(corpus: Corpus) -> None:
    assert corpus.captions == [Pair("Ein Hund läuft.", "A dog runs.")]
    texts = {text for p in corpus.everyday for text in (p.german, p.english)}
    assert not texts & {"A man stands.", "Da steht ein Mann.", "It is red.", "Der Ball ist rot."}


def test_tatoeba_is_split_by_english_sentence(corpus: Corpus) -> None:
    train = {pair.english for pair in corpus.everyday}
    held_out = {pair.english for pair in corpus.everyday_validation}
    assert train and held_out and not train & held_out
    assert len(corpus.everyday) + len(corpus.everyday_validation) == len(TATOEBA) - 2


def test_text_is_normalized() -> None:
    assert normalized(" ﬁne\u00a0\u2009 day\t") == "fine day"


def test_what_is_missing_or_uneven_is_told(folder: Path) -> None:
    with gzip.open(folder / "multi30k" / "val.en.gz", "wt") as file:
        file.write("one\ntwo\n")
    with pytest.raises(DataMalformed, match="1 German but 2 English"):
        load_corpus(folder)
    (folder / "multi30k" / "val.en.gz").unlink()
    with pytest.raises(DataNotFound, match=r"val\.en\.gz"):
        load_corpus(folder)


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    sentences = [text for pair in TATOEBA for text in pair] * 3
    return train_vocabulary(sentences, 160)


def test_the_vocabulary_is_numbered_as_marian_has_it(vocabulary: Vocabulary) -> None:
    assert (vocabulary.pieces[0], vocabulary.pieces[1]) == ("</s>", "<unk>")
    assert vocabulary.pieces[vocabulary.padding] == "<pad>"
    assert vocabulary.padding == len(vocabulary.pieces) - 1


@pytest.mark.parametrize("text", ["Österreich, 1789: 7 Äpfel (50 %) für 3 € „so“!", "X#@Q[]{}"])
def test_every_letter_digit_and_mark_is_known(vocabulary: Vocabulary, text: str) -> None:
    tokens = vocabulary.encode(text)
    assert 1 not in tokens and tokens[-1] == 0
    assert vocabulary.decode(tokens).replace(" ", "") == text.replace(" ", "")


def test_a_saved_vocabulary_comes_back(vocabulary: Vocabulary, tmp_path: Path) -> None:
    vocabulary.save(tmp_path)
    assert load_vocabulary(tmp_path) == vocabulary
