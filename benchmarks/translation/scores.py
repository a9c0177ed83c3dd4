"""Whether what is served scores as what its card says it scores offline."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
import sacrebleu

from benchmarks.translation.texts import captions

CARD = "CARD.md"
BLEU = re.compile(r"sacreBLEU[^|\n]*\|\s*([\d.]+)")
CHRF = re.compile(r"chrF[^|\n]*\|\s*([\d.]+)")
AT_A_TIME = 32


@dataclass(frozen=True)
class Scores:
    """Corpus scores of Multi30k's test_2016_flickr, as cards give them: two digits."""

    bleu: float
    chrf: float


def card_scores(version: Path) -> Scores | None:
    """Return what a version's card says; None without a card."""
    path = version / CARD
    if not path.is_file():
        return None
    text = path.read_text(encoding="utf-8")
    bleu, chrf = BLEU.search(text), CHRF.search(text)
    if bleu is None or chrf is None:
        raise ValueError(f"{path} gives no sacreBLEU and chrF in its table")
    return Scores(float(bleu[1]), float(chrf[1]))


def served_scores(port: int, model: str, data: Path) -> Scores:
    """Translate the test set through a server, as the model's own settings say, and score it."""
    translations = asyncio.run(_translate(port, model, captions(data)))
    references = [captions(data, language="en")]
    return Scores(
        round(sacrebleu.BLEU().corpus_score(translations, references).score, 2),
        round(sacrebleu.CHRF().corpus_score(translations, references).score, 2),
    )


async def _translate(port: int, model: str, texts: Sequence[str]) -> list[str]:
    found: dict[int, str] = {}
    waiting = iter(enumerate(texts))
    # As the offline evaluation reads them: every line is one sentence, whatever is in it.
    how = {"model": model, "parameters": {"verbatim": True}}
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:

        async def caller() -> None:
            while (case := next(waiting, None)) is not None:
                number, text = case
                answer = await client.post("/translate", json={**how, "text": text})
                answer.raise_for_status()
                found[number] = answer.json()["translations"][0]["text"]

        await asyncio.gather(*(caller() for _ in range(AT_A_TIME)))
    return [found[number] for number in range(len(texts))]
