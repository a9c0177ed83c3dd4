"""LitServe over the same ONNX Runtime session: JSON, or a multipart file (it takes no raw bodies).

PORT and MODEL come from the environment; batches of up to 32 that wait up to BATCH_TIMEOUT_S.
"""

from __future__ import annotations

import os

import litserve
import numpy as np
import onnxruntime


class Classifier(litserve.LitAPI):
    def setup(self, device: str) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(
            os.environ["MODEL"], options, providers=["CPUExecutionProvider"]
        )

    def decode_request(self, request) -> np.ndarray:
        if "input" in request:
            return np.asarray(request["input"], np.float32)
        return np.frombuffer(request["file"].file.read(), np.float32)

    def batch(self, rows: list[np.ndarray]) -> np.ndarray:
        return np.stack(rows)

    def predict(self, batch: np.ndarray) -> np.ndarray:
        return self.session.run(None, {"input": batch})[0]

    def unbatch(self, logits: np.ndarray) -> list[np.ndarray]:
        return list(logits)

    def encode_response(self, row: np.ndarray) -> dict[str, object]:
        return {"class": int(row.argmax()), "logits": row.tolist()}


if __name__ == "__main__":
    api = Classifier(
        max_batch_size=32, batch_timeout=float(os.environ.get("BATCH_TIMEOUT_S", "0.002"))
    )
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1, timeout=60)
    server.run(
        host="127.0.0.1",
        port=int(os.environ["PORT"]),
        generate_client_file=False,
        log_level="warning",
        access_log=False,
        num_api_servers=1,
    )
