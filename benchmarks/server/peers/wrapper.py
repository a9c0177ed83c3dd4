"""What one writes by hand in twenty lines: FastAPI around ONNX Runtime, inference in the route.

PORT and MODEL come from the environment. `/json` takes `{"input": [784 numbers]}`, `/binary` the
same as raw little-endian float32. uvicorn with uvloop and httptools, one process, one ORT thread.
"""

from __future__ import annotations

import os

import numpy as np
import onnxruntime
import uvicorn
from fastapi import FastAPI, Request
from pydantic import BaseModel

options = onnxruntime.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
session = onnxruntime.InferenceSession(
    os.environ["MODEL"], options, providers=["CPUExecutionProvider"]
)
app = FastAPI()


class Item(BaseModel):
    input: list[float]


def infer(row: np.ndarray) -> dict[str, object]:
    [logits] = session.run(None, {"input": row[None]})
    return {"class": int(logits[0].argmax()), "logits": logits[0].tolist()}


@app.get("/health")
async def health() -> str:
    return "ok"


@app.post("/json")
async def predict_json(item: Item) -> dict[str, object]:
    return infer(np.asarray(item.input, np.float32))


@app.post("/binary")
async def predict_binary(request: Request) -> dict[str, object]:
    return infer(np.frombuffer(await request.body(), np.float32))


if __name__ == "__main__":
    port = int(os.environ["PORT"])
    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning", access_log=False)
