"""`python -m recipes.translate_de_en --data FOLDER --out model_repo`."""

from __future__ import annotations

from pathlib import Path

from recipes.common import command
from recipes.common.loop import computes_in_bfloat16
from recipes.common.memory import keep_freed_memory
from recipes.translate_de_en.corpus import Corpus, load_corpus
from recipes.translate_de_en.publish import NAME, publish_versions
from recipes.translate_de_en.train import Settings, Training
from recipes.translate_de_en.vocabulary import Vocabulary, load_vocabulary, train_vocabulary


def main() -> None:
    """Train, export, measure and package."""
    parser = command.parser("translate_de_en", __doc__, "folder of multi30k/, deu-eng.zip")
    parser.add_argument("--steps", type=int, default=Settings.steps, help="how long it trains")
    given = parser.parse_args()
    keep_freed_memory()
    corpus = load_corpus(given.data)
    folder = given.checkpoints / NAME
    settings = Settings(steps=given.steps, bfloat16=computes_in_bfloat16())
    training = Training(corpus, vocabulary_of(corpus, settings, folder), settings, folder)
    training.run()
    publish_versions(training, corpus, given.out, given.results)


def vocabulary_of(corpus: Corpus, settings: Settings, folder: Path) -> Vocabulary:
    """Return the vocabulary of this run: trained once, then read."""
    if not (folder / "vocab.json").exists():
        pairs = (*corpus.captions, *corpus.everyday)
        sentences = (text for pair in pairs for text in (pair.german, pair.english))
        train_vocabulary(sentences, settings.vocabulary).save(folder)
    return load_vocabulary(folder)


if __name__ == "__main__":
    main()
