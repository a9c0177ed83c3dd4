"""The training: Adam, a trapezoid of learning rates, and a running mean of the weights."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import MarianConfig, MarianMTModel

from recipes.common import checkpoint
from recipes.common.loop import Stopwatch, epoch_generator, progress_bar
from recipes.translate_de_en.batching import IGNORED, Batch, Example, collate, plan_epoch
from recipes.translate_de_en.corpus import Corpus, Pair
from recipes.translate_de_en.loss import smoothed_cross_entropy
from recipes.translate_de_en.vocabulary import Vocabulary

SAVE_EVERY_S = 300.0
CURVE_EVERY = 250                         # steps between points of the learning curve


@dataclass(frozen=True)
class Settings:
    """Everything that decides what comes out."""

    vocabulary: int = 8000
    width: int = 256
    encoder_layers: int = 6
    decoder_layers: int = 2
    heads: int = 8
    feed_forward: int = 1024
    positions: int = 256
    dropout: float = 0.1
    smoothing: float = 0.1
    steps: int = 4200
    caption_repeats: int = 2              # Multi30k is shown so often in an epoch
    max_tokens: int = 3072                # per batch and side, padding included
    longest: int = 100                    # tokens; longer pairs do not train
    rate: float = 1.2e-3
    warmup: int = 1000                    # steps
    decay: float = 0.3                    # share of all steps in which the rate falls to zero
    mean_decay: float = 0.998             # of the running mean of weights, per step
    early_step: int = 1500                # the checkpoint that becomes version 1
    seed: int = 1
    bfloat16: bool = True

    def same_run(self) -> dict[str, Any]:
        """Return what a checkpoint must share: the length may change before the rate falls."""
        return {key: value for key, value in asdict(self).items() if key != "steps"}


def build_model(settings: Settings) -> MarianMTModel:
    """Return the untrained network."""
    padding = settings.vocabulary - 1
    torch.manual_seed(settings.seed)
    # torch's flash attention takes half of a step's time backward at sentences this short.
    return MarianMTModel(
        MarianConfig(
            attn_implementation="eager",
            vocab_size=settings.vocabulary,
            d_model=settings.width,
            encoder_layers=settings.encoder_layers,
            decoder_layers=settings.decoder_layers,
            encoder_attention_heads=settings.heads,
            decoder_attention_heads=settings.heads,
            encoder_ffn_dim=settings.feed_forward,
            decoder_ffn_dim=settings.feed_forward,
            max_position_embeddings=settings.positions,
            dropout=settings.dropout,
            activation_function="swish",
            scale_embedding=True,
            share_encoder_decoder_embeddings=True,
            pad_token_id=padding,
            eos_token_id=0,
            forced_eos_token_id=0,
            decoder_start_token_id=padding,
            init_std=0.02,
        )
    )


def encode_pairs(pairs: list[Pair], vocabulary: Vocabulary, longest: int) -> list[Example]:
    """Return the token ids of pairs, without those that are too long."""
    examples = [
        Example(vocabulary.encode(pair.german), vocabulary.encode(pair.english)) for pair in pairs
    ]
    return [e for e in examples if max(len(e.source), len(e.target)) <= longest]


class RunningMean:
    """An exponential mean of the weights; it validates and ships in place of the last ones."""

    def __init__(self, model: MarianMTModel, decay: float) -> None:
        """Start at the model's weights."""
        self._parameters = list(model.parameters())
        self._names = [name for name, _ in model.named_parameters()]
        self._decay = decay
        self._mean = [p.detach().clone() for p in self._parameters]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Follow the weights; early steps count more, so that the start is forgotten."""
        keep = min(self._decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self._mean, self._parameters, 1 - keep)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the mean by parameter name."""
        return dict(zip(self._names, self._mean, strict=True))

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from a stored mean."""
        for mean, name in zip(self._mean, self._names, strict=True):
            mean.copy_(state[name])


class Training:
    """One run, which a checkpoint lets go on after a stop."""

    def __init__(
        self, corpus: Corpus, vocabulary: Vocabulary, settings: Settings, checkpoints: Path
    ) -> None:
        """Tokenize the corpus and load the latest checkpoint."""
        self.settings, self.vocabulary, self.folder = settings, vocabulary, checkpoints
        captions, everyday, validation, everyday_validation = (
            encode_pairs(pairs, vocabulary, settings.longest)
            for pairs in (
                corpus.captions, corpus.everyday, corpus.validation, corpus.everyday_validation,
            )
        )
        self._examples = captions * settings.caption_repeats + everyday
        self._validation = {"captions": validation, "everyday": everyday_validation}
        self.model = build_model(settings)
        self.mean = RunningMean(self.model, settings.mean_decay)
        decayed = [p for p in self.model.parameters() if p.dim() > 1]
        others = [p for p in self.model.parameters() if p.dim() <= 1]
        self._optimizer = torch.optim.AdamW(
            [{"params": decayed, "weight_decay": 0.01}, {"params": others, "weight_decay": 0.0}],
            lr=settings.rate, betas=(0.9, 0.98), eps=1e-9, fused=True,
        )
        self.progress = checkpoint.resume(self._latest(), settings.same_run(), **self._parts())

    def run(self) -> None:
        """Train to the end, saving every five minutes."""
        saved, watch = time.monotonic(), Stopwatch()
        with progress_bar("translate-de-en", self.settings.steps, self.progress.step) as bar:
            while self.progress.step < self.settings.steps:
                plan = self._plan(self.progress.epoch)
                for rows in plan[self.progress.step - self.progress.epoch_start :]:
                    loss = self._step([self._examples[row] for row in rows])
                    bar.advance(f"loss {loss:.3f}" if self.progress.step % 20 == 0 else None)
                    self._note(loss, bar.say)
                    if time.monotonic() - saved > SAVE_EVERY_S:
                        self._save(watch)
                        saved, watch = time.monotonic(), Stopwatch()
                    if self.progress.step == self.settings.steps:
                        break
                else:
                    self.progress.epoch += 1
                    self.progress.epoch_start = self.progress.step
            self._save(watch)

    def early(self) -> dict[str, Tensor]:
        """Return the mean weights at the early step."""
        return dict(torch.load(self.folder / "early.pt", weights_only=True))

    def _note(self, loss: float, say: Callable[[str], None]) -> None:
        """Keep what is wanted of this step: the early weights, a point of the curve."""
        step = self.progress.step
        if step == self.settings.early_step:
            torch.save(self.mean.state_dict(), self.folder / "early.pt")
        if step % CURVE_EVERY == 0 or step == self.settings.steps:
            self._measure(say, loss)

    def _step(self, examples: list[Example]) -> float:
        settings, step = self.settings, self.progress.step
        torch.manual_seed(settings.seed * 1_000_003 + step)     # dropout, the same after a resume
        for group in self._optimizer.param_groups:
            group["lr"] = settings.rate * self._rate(step)
        self.model.train()
        loss = self._loss(collate(examples, self.vocabulary.padding), settings.smoothing)
        loss.backward()                   # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self._optimizer.step()
        self._optimizer.zero_grad()
        self.progress.step += 1
        self.mean.update(self.progress.step)
        return loss.item()

    def _rate(self, step: int) -> float:
        """Rise over the warm-up, stay, and fall to zero over the last part."""
        total = self.settings.steps
        falling = (total - step) / (self.settings.decay * total)
        return min(1.0, (step + 1) / self.settings.warmup, max(falling, 0.0))

    def _loss(self, batch: Batch, smoothing: float) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=self.settings.bfloat16):
            hidden = self.model.model(
                input_ids=batch.source,
                attention_mask=batch.source_mask,
                decoder_input_ids=batch.decoder_input,
                use_cache=False,
            ).last_hidden_state
            wanted = batch.labels != IGNORED
            weight = self.model.get_input_embeddings().weight
            return smoothed_cross_entropy(
                hidden[wanted].float(), weight, batch.labels[wanted], smoothing
            )

    @torch.no_grad()
    def _measure(self, say: Callable[[str], None], loss: float) -> None:
        """Add a point to the curve: losses of the mean weights on both validation sets."""
        own = {name: p.detach().clone() for name, p in self.model.named_parameters()}
        self.model.load_state_dict(self.mean.state_dict(), strict=False)
        self.model.eval()
        point: dict[str, float] = {"step": self.progress.step, "train_loss": loss}
        for name, examples in self._validation.items():
            ordered = sorted(examples[:600], key=lambda e: len(e.target))
            parts = [ordered[k : k + 100] for k in range(0, len(ordered), 100)]
            losses = [self._loss(collate(p, self.vocabulary.padding), 0.0).item() for p in parts]
            point[f"{name}_loss"] = sum(losses) / len(losses)
        self.model.load_state_dict(own, strict=False)
        self.progress.curve.append(point)
        say("  ".join(f"{key} {value:.4g}" for key, value in point.items()))

    def _plan(self, epoch: int) -> list[list[int]]:
        generator = epoch_generator(self.settings.seed, epoch)
        return plan_epoch(self._examples, self.settings.max_tokens, generator)

    def _parts(self) -> dict[str, Any]:
        return {"model": self.model, "optimizer": self._optimizer, "mean": self.mean}

    def _latest(self) -> Path:
        return self.folder / "latest.pt"

    def _save(self, watch: Stopwatch) -> None:
        self.progress.add(watch)
        checkpoint.save(self._latest(), self.settings.same_run(), self.progress, **self._parts())
