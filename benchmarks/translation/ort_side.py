"""ONNX Runtime on the same files, driven by a plain loop: greedy, or beams in numpy.

Weights that are stored as bytes are turned to float32 in the files first, so that no run does it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import numpy_helper

from benchmarks.translation.work import Tokens, Work

ENCODER, FIRST, FURTHER = "encoder_model", "decoder_model", "decoder_with_past_model"
NEVER = np.float32(-1e9)
Array = NDArray[np.float32]


def float_weights(source: Path, to: Path) -> None:
    """Write a model with the results of DequantizeLinear on fixed values as fixed values."""
    model = onnx.load(source)
    fixed = {t.name: t for t in model.graph.initializer}
    kept = []
    for node in model.graph.node:
        values = [numpy_helper.to_array(fixed[name]) for name in node.input if name in fixed]
        if node.op_type != "DequantizeLinear" or len(values) < len(node.input):
            kept.append(node)
            continue
        axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
        x, scale = values[0].astype(np.float32), values[1]
        shape = [1] * x.ndim
        if scale.ndim:
            shape[axis] = -1
        zero = values[2].astype(np.float32).reshape(shape) if len(values) > 2 else np.float32(0)
        result = ((x - zero) * scale.reshape(shape)).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(result, node.output[0]))
    del model.graph.node[:]
    model.graph.node.extend(kept)
    used = {name for node in kept for name in node.input}
    left = [t for t in model.graph.initializer if t.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend(left)
    to.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, to)


def prepare(folder: Path, to: Path) -> Path:
    """Write all parts of a folder with float32 weights, unless they are there."""
    for name in (ENCODER, FIRST, FURTHER):
        source, made = folder / f"{name}.onnx", to / f"{name}.onnx"
        if not made.exists() or made.stat().st_mtime < source.stat().st_mtime:
            float_weights(source, made)
    return to


class OnnxRuntime:
    """Encoder, first step, further steps; the caches go round as arrays."""

    def __init__(self, folder: Path, threads: int, start: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self.start = start

        def load(name: str) -> onnxruntime.InferenceSession:
            return onnxruntime.InferenceSession(
                str(folder / f"{name}.onnx"), options, providers=["CPUExecutionProvider"]
            )

        self.encoder, self.first, self.further = load(ENCODER), load(FIRST), load(FURTHER)
        self.present = [o.name for o in self.first.get_outputs()][1:]
        self.renewed = [o.name for o in self.further.get_outputs()][1:]

    def translate(self, work: Work) -> list[Tokens]:
        """Batch after batch; a batch goes on until its last sentence ends."""
        return [tokens for batch in work.batches() for tokens in self._batch(batch, work)]

    def _batch(self, batch: Sequence[Sequence[int]], work: Work) -> list[Tokens]:
        width, beams = max(map(len, batch)), work.beams
        ids = np.full((len(batch), width), self.start, np.int64)
        mask = np.zeros((len(batch), width), np.int64)
        for row, sentence in enumerate(batch):
            ids[row, : len(sentence)], mask[row, : len(sentence)] = sentence, 1
        [states] = self.encoder.run(None, {"input_ids": ids, "attention_mask": mask})
        many = {
            "encoder_attention_mask": np.repeat(mask, beams, 0),
            "encoder_hidden_states": np.repeat(states, beams, 0),
        }
        feeds = {"input_ids": np.full((len(batch) * beams, 1), self.start, np.int64), **many}
        logits, *present = self.first.run(None, feeds)
        caches = dict(zip(self.present, present, strict=True))
        beam = _Beams(len(batch), work, self.start)
        while True:
            rows = beam.take(logits[:, -1])
            if beam.over:
                return beam.best()
            if beams > 1:
                for name in self.renewed:
                    caches[name] = caches[name][rows]
            feeds = {name.replace("present", "past_key_values"): v for name, v in caches.items()}
            feeds["input_ids"] = beam.last.reshape(-1, 1)
            feeds["encoder_attention_mask"] = many["encoder_attention_mask"]
            logits, *renewed = self.further.run(None, feeds)
            caches.update(zip(self.renewed, renewed, strict=True))


class _Beams:
    """Beam search over whole batches in numpy; one beam is greedy."""

    def __init__(self, count: int, work: Work, never: int) -> None:
        self.work, self.count, self.never = work, count, never
        self.scores = np.full((count, work.beams), NEVER, np.float32)
        self.scores[:, 0] = 0
        self.tokens = np.zeros((count, work.beams, 0), np.int64)
        self.ended: list[list[tuple[float, Tokens]]] = [[] for _ in range(count)]

    @property
    def last(self) -> NDArray[np.int64]:
        """The latest token of every row."""
        return self.tokens[:, :, -1].reshape(-1)

    @property
    def over(self) -> bool:
        """Whether every sentence has as many hypotheses as beams, or the length is used up."""
        full = all(len(each) >= self.work.beams for each in self.ended)
        return full or self.tokens.shape[2] >= self.work.longest

    def take(self, logits: Array) -> NDArray[np.int64]:
        """Choose the next tokens; return the row that each row goes on from."""
        work, size = self.work, logits.shape[-1]
        logits[:, self.never] = -np.inf
        length = self.tokens.shape[2] + 1
        if work.forced:
            logits[:, 0] = -np.inf
        if work.beams == 1:
            chosen = logits.argmax(-1)
            rows = np.arange(self.count)
            self.tokens = np.concatenate([self.tokens, chosen.reshape(-1, 1, 1)], 2)
            for row in rows[chosen == 0]:
                if not self.ended[row]:
                    self.ended[row].append((0.0, self.tokens[row, 0].tolist()))
            return rows
        peak = logits.max(-1, keepdims=True)
        total = np.log(np.exp(logits - peak).sum(-1, keepdims=True)) + peak
        values = (logits - total).reshape(self.count, work.beams, size) + self.scores[:, :, None]
        flat = values.reshape(self.count, -1)
        wide = 2 * work.beams
        best = np.argpartition(-flat, wide, 1)[:, :wide]
        order = np.argsort(-np.take_along_axis(flat, best, 1), 1, kind="stable")
        best = np.take_along_axis(best, order, 1)
        rows = np.zeros((self.count, work.beams), np.int64)
        tokens = np.zeros((self.count, work.beams), np.int64)
        for s in range(self.count):
            place = 0
            for rank, candidate in enumerate(best[s].tolist()):
                beam, token = divmod(candidate, size)
                if token == 0:
                    if rank < work.beams and len(self.ended[s]) < work.beams:
                        score = float(flat[s, candidate]) / length
                        self.ended[s].append((score, self.tokens[s, beam].tolist()))
                elif place < work.beams:
                    rows[s, place], tokens[s, place] = beam, token
                    self.scores[s, place] = flat[s, candidate]
                    place += 1
        kept = np.take_along_axis(self.tokens, rows[:, :, None], 1)
        self.tokens = np.concatenate([kept, tokens[:, :, None]], 2)
        return (rows + np.arange(self.count)[:, None] * work.beams).reshape(-1)

    def best(self) -> list[Tokens]:
        """Return each sentence's best hypothesis, without the end."""
        found = []
        for s, ended in enumerate(self.ended):
            length = self.tokens.shape[2]
            running = [
                (float(self.scores[s, k]) / length, self.tokens[s, k].tolist())
                for k in range(self.work.beams)
            ]
            short = len(ended) < self.work.beams
            _, tokens = max([*ended, *(running if short else [])], key=lambda each: each[0])
            found.append([token for token in tokens if token])
        return found
