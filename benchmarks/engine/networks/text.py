"""Encoders of text in the manner of BERT, and a tagger of words with an LSTM."""

# mypy: disable-error-code="no-any-return"
# (torch says nothing of what calling a module returns)

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.engine.networks.building import Exportable, draw_weights

WORDS = 30522


class EncoderLayer(nn.Module):
    """Devlin et al.: attention and feed-forward, each followed by sum and norm."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.size = heads, width // heads
        self.query, self.key = nn.Linear(width, width), nn.Linear(width, width)
        self.value, self.join = nn.Linear(width, width), nn.Linear(width, width)
        self.first, self.second = nn.LayerNorm(width, eps=1e-12), nn.LayerNorm(width, eps=1e-12)
        self.widen, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def split(self, x: Tensor) -> Tensor:
        """Turn (N, L, C) into (N, heads, L, C / heads)."""
        return x.view(x.shape[0], x.shape[1], self.heads, self.size).permute(0, 2, 1, 3)

    def attend(self, x: Tensor, mask: Tensor) -> Tensor:
        """Mix (N, L, C) along L; `mask` is added to the scores."""
        q, k, v = self.split(self.query(x)), self.split(self.key(x)), self.split(self.value(x))
        scores = torch.matmul(q, k.transpose(-1, -2)) / math.sqrt(self.size) + mask
        mixed = torch.matmul(scores.softmax(-1), v).permute(0, 2, 1, 3)
        return mixed.reshape(x.shape[0], x.shape[1], self.heads * self.size)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = self.first(x + self.join(self.attend(x, mask)))
        return self.second(x + self.narrow(functional.gelu(self.widen(x))))


class Encoder(nn.Module):
    """Word, place and segment embeddings, then layers."""

    order: Tensor

    def __init__(self, width: int, depth: int, heads: int) -> None:
        super().__init__()
        self.words, self.segments = nn.Embedding(WORDS, width), nn.Embedding(2, width)
        self.places = nn.Embedding(512, width)
        self.norm = nn.LayerNorm(width, eps=1e-12)
        self.layers = nn.ModuleList(EncoderLayer(width, heads) for _ in range(depth))
        self.register_buffer("order", torch.arange(512)[None])

    def forward(self, tokens: Tensor, mask: Tensor, segments: Tensor) -> Tensor:
        places = self.places(self.order[:, : tokens.shape[1]])
        x = self.norm(self.words(tokens) + self.segments(segments) + places)
        hidden = (1.0 - mask[:, None, None, :].to(x.dtype)) * torch.finfo(x.dtype).min
        for layer in self.layers:
            x = layer(x, hidden)
        return x  # (N, L, C)


class Bert(nn.Module):
    """BERT-base: all tokens' vectors, and the first one's through a last dense layer."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.pool = Encoder(768, 12, 12), nn.Linear(768, 768)

    def forward(self, tokens: Tensor, mask: Tensor, segments: Tensor) -> tuple[Tensor, Tensor]:
        x = self.encoder(tokens, mask, segments)
        return x, torch.tanh(self.pool(x[:, 0]))


class SentenceEncoder(nn.Module):
    """MiniLM-L6's shape: the mean over real tokens, of length one."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = Encoder(384, 6, 12)

    def forward(self, tokens: Tensor, mask: Tensor, segments: Tensor) -> Tensor:
        x = self.encoder(tokens, mask, segments)
        real = mask[:, :, None].to(x.dtype)
        mean = (x * real).sum(1) / real.sum(1).clamp(min=1e-9)
        return functional.normalize(mean, p=2.0, dim=1)


class Tagger(nn.Module):
    """Two layers of LSTM in both directions over word embeddings; 18 tags."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(20000, 128)
        self.lstm = nn.LSTM(128, 256, num_layers=2, batch_first=True, bidirectional=True)
        self.tags = nn.Linear(512, 18)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.tags(self.lstm(self.words(tokens))[0]).log_softmax(-1)


def bert_base() -> Exportable:
    """Return BERT-base: 11.2 GMAC for 128 tokens."""
    axes = {"last_hidden_state": {0: "N", 1: "L"}, "pooler_output": {0: "N"}}
    return _text_network(Bert(), 59, ("last_hidden_state", "pooler_output"), axes)


def minilm() -> Exportable:
    """Return a sentence encoder of MiniLM-L6's shape: 0.34 GMAC for 32 tokens."""
    axes = {"sentence_embedding": {0: "N"}}
    return _text_network(SentenceEncoder(), 60, ("sentence_embedding",), axes)


def lstm_tagger() -> Exportable:
    """Return the tagger: 2.4 MMAC a token."""
    module = Tagger().eval()
    draw_weights(module, 61)
    tokens = torch.arange(2 * 24).view(2, 24)
    axes = {"tokens": {0: "N", 1: "L"}, "tags": {0: "N", 1: "L"}}
    return Exportable(module, (tokens,), ("tokens",), ("tags",), axes)


def _text_network(
    module: nn.Module, seed: int, outputs: tuple[str, ...], axes: dict[str, dict[int, str]]
) -> Exportable:
    draw_weights(module.eval(), seed)
    tokens = torch.arange(2 * 24).view(2, 24)
    inputs = ("input_ids", "attention_mask", "token_type_ids")
    axes = {**axes, **{name: {0: "N", 1: "L"} for name in inputs}}
    example = (tokens, torch.ones_like(tokens), torch.zeros_like(tokens))
    return Exportable(module, example, inputs, outputs, axes)
