"""Real, tiny networks behind `/translate`: texts give what the graphs give, token by token."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest

from server.settings import Settings
from tests.engine.generation.networks import POSITIONS, VOCABULARY, Oracle, unpack
from tests.server.running import running_server
from tests.server.shouting import END, pieces, write_text_files

LETTERS = "abcdefghijklmnopqrstuvwxyzäöüß.,?"
NETWORKS = {"marian": "de", "marian_whole": "fr", "t5_gated_merged": "de"}  # source languages
LONGEST = 14  # tokens of a translation
TEXTS = ("guten tag.", "wo ist der weg?", "a b c")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("networks")
    for name, source in NETWORKS.items():
        folder = unpack(name, root / name / "1")
        languages = {"source_lang": source, "target_lang": "en"}
        settings = {"max_new_tokens": LONGEST}
        facts = {
            "is_encoder_decoder": True,
            "max_position_embeddings": POSITIONS,
            "decoder_start_token_id": len(pieces(LETTERS)[1]) - 1,
            "eos_token_id": END,
        }
        files = {"config": facts, "generation_config": settings, "tokenizer_config": languages}
        write_text_files(folder, LETTERS, **files)
    return root


@pytest.fixture(scope="module")
def client(root: Path) -> Iterator[httpx.Client]:
    settings = Settings(
        repository=root,
        isolate=False,
        watch=False,
        settle_s=0.0,
        device="reference",
        worker_threads=2,
    )
    with (
        running_server(settings) as server,
        httpx.Client(base_url=server.url, timeout=200.0) as client,
    ):
        yield client


def numbers_of(text: str) -> list[int]:
    """Return the tokens of a text; spaces are pieces of their own."""
    _, numbers = pieces(LETTERS)
    return [numbers[letter] for letter in "▁" + text.replace(" ", "▁")] + [END]


def greedy(oracle: Oracle, text: str) -> list[int]:
    """Return what ONNX Runtime's logits say, one token after the other."""
    prefix = [pieces(LETTERS)[1]["<pad>"]]
    while len(prefix) <= LONGEST and prefix[1:][-1:] != [END]:
        prefix.append(int(np.argmax(oracle.logits(numbers_of(text), prefix))))
    return prefix[1:]


def test_the_vocabulary_fits() -> None:
    assert len(pieces(LETTERS)[1]) <= VOCABULARY


@pytest.mark.parametrize("name", NETWORKS)
def test_tokens_are_those_of_the_graphs(client: httpx.Client, root: Path, name: str) -> None:
    body = {"model": name, "text": list(TEXTS), "sentences": True}
    found = client.post("/translate", json=body).json()["translations"]
    oracle = Oracle(root / name / "1")
    for text, translation in zip(TEXTS, found, strict=True):
        [sentence] = translation["sentences"]
        assert sentence["tokens"] == greedy(oracle, text)
        assert translation["truncated"] == (sentence["tokens"][-1] != END)


def test_the_languages_choose_the_model(client: httpx.Client) -> None:
    assert client.post("/translate", json={"text": "a", "source": "fr"}).json()["model"] == (
        "marian_whole"
    )
    text = "Je ne sais pas ce que vous voulez dire avec cette phrase."
    found = client.post("/translate", json={"text": text, "source": "auto"}).json()
    assert found["model"] == "marian_whole", found
    assert found["translations"][0]["detected"]["language"] == "fr", found
    listed = client.get("/languages").json()
    assert [each["code"] for each in listed] == ["de", "en", "fr"]


def test_models_with_the_same_languages_are_named(client: httpx.Client) -> None:
    answer = client.post("/translate", json={"text": "a", "source": "de"})
    assert answer.status_code == 422
    assert answer.json()["expected"] == sorted(NETWORKS)
    body = {"q": "guten tag", "source": "de", "target": "en"}  # LibreTranslate names none
    assert isinstance(client.post("/translate", json=body).json()["translatedText"], str)
    body = {"q": "guten tag", "source": "de", "target": "fr"}
    assert "fr is not supported" in client.post("/translate", json=body).json()["error"]


def test_the_status_says_how_the_caches_are_kept(client: httpx.Client) -> None:
    cached = client.get("/models/marian").json()["versions"][0]["metadata"]
    whole = client.get("/models/marian_whole").json()["versions"][0]["metadata"]
    assert cached["cached"] and not whole["cached"]
    assert cached["notes"] and whole["notes"] and cached["slots"]["target_tokens"] == POSITIONS
