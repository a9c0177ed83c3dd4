"""How late the event loop gets: 32 callers send 5 MB pictures while a 100 MB model loads.

The lag is measured inside a real server process, by its own probe (`millrace_event_loop_lag_*`).
Needs Debian's `wrk` and Pillow.

    python -m benchmarks.server.lag [--seconds 30]
"""

from __future__ import annotations

import argparse
import io
import json
import shutil
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.common.machine import machine_facts
from benchmarks.common.models import dense_net
from benchmarks.common.results import Target, at_most, markdown_table, targets_table, write_result
from benchmarks.common.server_process import ServerProcess
from benchmarks.server.load import Body, Point, run_wrk

CONCURRENCY = 32
PICTURE_BYTES = 5_000_000
LARGE_NET = (1000, 5000, 4000, 10)  # 25 million weights: 100 MB
LOAD_LIMIT_S = 120.0
P99_LIMIT_MS = 10.0
MAX_LIMIT_MS = 50.0

MODEL_TOML = """task = "classification"
[preprocess]
resize = [32, 32]
"""

Buckets = dict[float, float]  # upper bound in seconds -> probes at or below it


def picture() -> bytes:
    """Return a JPEG of about 5 MB, 12 megapixels: a smooth scene with the noise of a sensor."""
    random = np.random.default_rng(0)
    height, width = 3000, 4000
    scene = np.add.outer(np.linspace(0, 120, height), np.linspace(0, 100, width))
    pixels = scene[..., None] + random.normal(0, 9, (height, width, 3))
    image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    best = b""
    for quality in range(40, 100, 3):
        file = io.BytesIO()
        image.save(file, "JPEG", quality=quality)
        best = file.getvalue()
        if len(best) >= PICTURE_BYTES:
            break
    return best


def picture_net() -> bytes:
    """Return a linear classifier of 32 x 32 pictures."""
    weight = np.random.default_rng(0).standard_normal((3 * 32 * 32, 10)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Flatten", ["input"], ["flat"]),
            helper.make_node("Gemm", ["flat", "w"], ["logits"]),
        ],
        "picture_net",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", 3, 32, 32])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 10])],
        [numpy_helper.from_array(weight, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def make_repository(root: Path) -> Path:
    """Write a repository with the picture model alone."""
    version = root / "models" / "pictures" / "1"
    version.mkdir(parents=True)
    (version / "model.onnx").write_bytes(picture_net())
    (version.parent / "model.toml").write_text(MODEL_TOML)
    return root / "models"


def get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=30) as answer:
        content: bytes = answer.read()
        return content


def read_lag(url: str) -> tuple[Buckets, float]:
    """Return the buckets of the lag histogram, and the recent maximum in seconds."""
    buckets: Buckets = {}
    maximum = 0.0
    for family in text_string_to_metric_families(get(f"{url}/metrics").decode()):
        for sample in family.samples:
            if sample.name == "millrace_event_loop_lag_seconds_bucket":
                buckets[float(sample.labels["le"])] = sample.value
            elif sample.name == "millrace_event_loop_lag_recent_max_seconds":
                maximum = sample.value
    return buckets, maximum


def difference(before: Buckets, after: Buckets) -> Buckets:
    return {bound: after[bound] - before[bound] for bound in after}


def quantile_ms(buckets: Buckets, share: float) -> float:
    """Return the upper bound of the bucket that holds this quantile."""
    total = buckets[float("inf")]
    return next(bound for bound in sorted(buckets) if buckets[bound] >= share * total) * 1e3


def largest_ms(buckets: Buckets, recent_s: float) -> float:
    """Return a bound of the largest lag: its bucket's, or the recent maximum if that is less.

    The recent maximum alone would also count the time before the load, when the server started.
    """
    return min(quantile_ms(buckets, 1.0), recent_s * 1e3)


def model_state(url: str, name: str) -> str:
    """Return the state of a model's only version, or why it has none."""
    for model in json.loads(get(f"{url}/models"))["models"]:
        if model["name"] == name:
            return " ".join(f"{v['state']}{v['reason'] or ''}" for v in model["versions"])
    return "ABSENT"


def load_large_model(url: str, repository: Path, prepared: Path) -> float:
    """Publish the large model into the running server's repository; return how long it loaded."""
    start = time.monotonic()
    prepared.rename(repository / "large")
    while (state := model_state(url, "large")) != "READY":
        if state.startswith("FAILED") or time.monotonic() - start > LOAD_LIMIT_S:
            raise RuntimeError(f"the large model did not load: {state}")
        time.sleep(0.25)
    return time.monotonic() - start


def measure(root: Path, seconds: int) -> tuple[Buckets, float, Point, int, float]:
    """Return lag buckets, their maximum, the load's figures, loads done, and seconds per load."""
    repository = make_repository(root)
    large = root / "large"
    (large / "1").mkdir(parents=True)
    (large / "1" / "model.onnx").write_bytes(dense_net(LARGE_NET))
    body = Body("/predict?model=pictures", picture(), "image/jpeg")
    points: list[Point] = []
    with ServerProcess(repository, root / "log") as server:
        run_wrk(server.port, server.pid, body, 2, 2)
        before, _ = read_lag(server.url)
        load = threading.Thread(
            target=lambda: points.append(
                run_wrk(server.port, server.pid, body, CONCURRENCY, seconds)
            )
        )
        load.start()
        loads, loading_s = 0, 0.0
        while load.is_alive():  # again and again, so that the load is always beside a loading
            if loads:
                shutil.rmtree(repository / "large")
                while model_state(server.url, "large") != "ABSENT":
                    time.sleep(0.25)
            shutil.copytree(large, root / "next")
            loading_s += load_large_model(server.url, repository, root / "next")
            loads += 1
        load.join()
        after, maximum = read_lag(server.url)
    return difference(before, after), maximum, points[0], loads, loading_s / loads


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--seconds", type=int, default=30)
    parser.add_argument("--dry", action="store_true", help="print only, write nothing")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        lag, maximum, point, loads, load_s = measure(Path(folder), arguments.seconds)
    targets: list[Target] = [
        at_most("event loop lag, p99, ms", quantile_ms(lag, 0.99), P99_LIMIT_MS),
        at_most("event loop lag, largest, ms", largest_ms(lag, maximum), MAX_LIMIT_MS),
        at_most("failed requests", point.errors, 0),
    ]
    facts = machine_facts("uvicorn", "uvloop", "pillow")
    text = "# Server: how late the event loop gets\n\n"
    text += (
        f"{CONCURRENCY} callers send a 5 MB JPEG (12 megapixels) each, again and again, while a "
    )
    text += f"100 MB model loads beside ({loads} times, {load_s:.1f} s each until it is ready), on "
    text += f"{facts['cores']} cores ({facts['cpu']}) that wrk shares. "
    text += f"{point.requests_per_s:.1f} requests/s, p50 {point.p50_ms:.0f} ms; other CPU "
    text += f"{point.other_cpu:.0%}. p99 and largest are the upper bounds of their buckets.\n\n"
    text += targets_table(targets) + "\n"
    total = lag[float("inf")]
    rows = [[f"{bound * 1e3:g}", f"{count / total:.3%}"] for bound, count in sorted(lag.items())]
    text += markdown_table(["late by at most, ms", "share of the time"], rows)
    print(text)
    if not arguments.dry:
        details = {"buckets_s": {str(k): v for k, v in lag.items()}, "load": point.as_dict()}
        write_result("lag", facts, targets, details | {"loads": loads, "load_s": load_s}, text)
    return 0 if all(target.reached for target in targets) else 1


if __name__ == "__main__":
    sys.exit(main())
