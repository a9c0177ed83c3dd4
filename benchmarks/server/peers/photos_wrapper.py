"""What one writes by hand around ONNX Runtime to classify pictures: FastAPI, Pillow, numpy.

PORT, MODEL and LABELS come from the environment. A picture is posted as it is; the answer holds
the five best classes. STYLE chooses how runs meet the cores: "loop" runs in the event loop with all
cores, "threads" in FastAPI's thread pool with one core a run.
"""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import onnxruntime  # type: ignore[import-untyped]
import uvicorn
from fastapi import Depends, FastAPI, Request
from PIL import Image

MEAN = np.array([0.4914, 0.4822, 0.4465], np.float32)
DEVIATION = np.array([0.2470, 0.2435, 0.2616], np.float32)

loop = os.environ["STYLE"] == "loop"
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = len(os.sched_getaffinity(0)) if loop else 1
session = onnxruntime.InferenceSession(
    os.environ["MODEL"], options, providers=["CPUExecutionProvider"]
)
labels = Path(os.environ["LABELS"]).read_text().split()
app = FastAPI()


def classify(content: bytes) -> dict[str, object]:
    picture = Image.open(io.BytesIO(content)).convert("RGB")
    if picture.size != (32, 32):
        picture = picture.resize((32, 32), Image.Resampling.BILINEAR)
    pixels = (np.asarray(picture, np.float32) / 255 - MEAN) / DEVIATION
    [logits] = session.run(["logits"], {"image": pixels.transpose(2, 0, 1)[None]})
    scores = np.exp(logits[0] - logits[0].max())
    scores /= scores.sum()
    best = scores.argsort()[:-6:-1]
    return {"predictions": [{"label": labels[k], "score": float(scores[k])} for k in best]}


@app.get("/health")
async def health() -> str:
    return "ok"


if loop:

    @app.post("/predict")
    async def predict(request: Request) -> dict[str, object]:
        return classify(await request.body())

else:

    async def body(request: Request) -> bytes:
        return await request.body()

    @app.post("/predict")
    def predict_in_thread(content: bytes = Depends(body)) -> dict[str, object]:
        return classify(content)


if __name__ == "__main__":
    port = int(os.environ["PORT"])
    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning", access_log=False)
