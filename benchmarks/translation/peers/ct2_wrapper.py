"""What one writes by hand in thirty lines: FastAPI around CTranslate2, one request at a time.

PORT, MODEL (a converted model), TOKENIZER (a folder with source.spm), COMPUTE (float32 or int8),
THREADS and BEAMS come from the environment. `POST /translate` takes `{"text": "..."}`. FastAPI runs
the route in its threads; the translator takes their sentences one by one, which is CTranslate2's
way with one worker.
"""

from __future__ import annotations

import ctypes
import os
import signal
from pathlib import Path

import ctranslate2
import sentencepiece
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

translator = ctranslate2.Translator(
    os.environ["MODEL"],
    inter_threads=1,
    intra_threads=int(os.environ["THREADS"]),
    compute_type=os.environ["COMPUTE"],
)
folder = Path(os.environ["TOKENIZER"])
pieces = sentencepiece.SentencePieceProcessor(model_file=str(folder / "source.spm"))
beams = int(os.environ["BEAMS"])
longest = int(os.environ["MAX_NEW_TOKENS"])
app = FastAPI()


class Item(BaseModel):
    text: str


@app.get("/health")
def health() -> str:
    return "ok"


@app.post("/translate")
def translate(item: Item) -> dict[str, str]:
    source = [*pieces.encode(item.text, out_type=str), "</s>"]
    [result] = translator.translate_batch([source], beam_size=beams, max_decoding_length=longest)
    return {"text": pieces.decode(result.hypotheses[0])}


if __name__ == "__main__":
    # A benchmark that is killed leaves no server behind (Linux: PR_SET_PDEATHSIG).
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    port = int(os.environ["PORT"])
    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning", access_log=False)
