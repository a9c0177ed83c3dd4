"""A translation model of Marian's shape: its encoder, and one step of its decoder with a cache.

Junczys-Dowmunt et al.: six layers each, 512 wide, 8 heads, 2048 between, Swish, norms after sums.
"""

# mypy: disable-error-code="no-any-return"
# (torch says nothing of what calling a module returns)

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.engine.networks.building import Exportable, draw_weights, random_tensor

WORDS, WIDTH, HEADS, DEPTH, MOST_PLACES = 32000, 512, 8, 6, 512
HEAD = WIDTH // HEADS


def wave_table() -> Tensor:
    """Return sines in the first half of each place's vector, cosines in the second."""
    place = torch.arange(MOST_PLACES)[:, None]
    rate = torch.exp(torch.arange(0, WIDTH, 2) * (-math.log(10000.0) / WIDTH))
    return torch.cat([torch.sin(place * rate), torch.cos(place * rate)], 1)  # (places, C)


class Attention(nn.Module):
    """Queries from one sequence, keys and values from another or from a cache."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.value, self.join = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    @staticmethod
    def split(x: Tensor) -> Tensor:
        """Turn (N, L, C) into (N, heads, L, C / heads)."""
        return x.view(x.shape[0], x.shape[1], HEADS, HEAD).transpose(1, 2)

    def keys_and_values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return what is cached of `x`, each (N, heads, L, D)."""
        return self.split(self.key(x)), self.split(self.value(x))

    def forward(self, x: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
        scores = torch.matmul(self.split(self.query(x) * HEAD**-0.5), keys.transpose(2, 3))
        if mask is not None:
            scores = scores + mask
        mixed = torch.matmul(scores.softmax(-1), values).transpose(1, 2)
        return self.join(mixed.reshape(x.shape[0], x.shape[1], WIDTH))


class FeedForward(nn.Module):
    """Widen, Swish, narrow."""

    def __init__(self) -> None:
        super().__init__()
        self.widen, self.narrow = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.narrow(functional.silu(self.widen(x)))


def _hidden(mask: Tensor) -> Tensor:
    return (1.0 - mask[:, None, None, :].float()) * torch.finfo(torch.float32).min


class EncoderLayer(nn.Module):
    """Attention and feed-forward."""

    def __init__(self) -> None:
        super().__init__()
        self.own, self.feed = Attention(), FeedForward()
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(2))

    def forward(self, x: Tensor, hidden: Tensor) -> Tensor:
        x = self.norms[0](x + self.own(x, *self.own.keys_and_values(x), hidden))
        return self.norms[1](x + self.feed(x))


class TranslationEncoder(nn.Module):
    """Source tokens to their vectors."""

    places: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(WORDS, WIDTH)
        self.register_buffer("places", wave_table())
        self.layers = nn.ModuleList(EncoderLayer() for _ in range(DEPTH))

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        x = self.words(tokens) * math.sqrt(WIDTH) + self.places[: tokens.shape[1]]
        hidden = _hidden(mask)
        for layer in self.layers:
            x = layer(x, hidden)
        return x  # (N, L, C)


class DecoderLayer(nn.Module):
    """Attention to what is written, attention to the source, feed-forward."""

    def __init__(self) -> None:
        super().__init__()
        self.own, self.other, self.feed = Attention(), Attention(), FeedForward()
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(3))

    def forward(
        self,
        x: Tensor,
        hidden: Tensor,
        keys: Tensor,
        values: Tensor,
        source_keys: Tensor,
        source_values: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the new vectors and the grown keys and values."""
        new_keys, new_values = self.own.keys_and_values(x)
        keys, values = torch.cat([keys, new_keys], 2), torch.cat([values, new_values], 2)
        x = self.norms[0](x + self.own(x, keys, values, None))
        x = self.norms[1](x + self.other(x, source_keys, source_values, hidden))
        return self.norms[2](x + self.feed(x)), keys, values


class DecoderStep(nn.Module):
    """One new token per row: grows the cache by one and gives the next word's logits."""

    places: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(WORDS, WIDTH)
        self.register_buffer("places", wave_table())
        self.layers = nn.ModuleList(DecoderLayer() for _ in range(DEPTH))
        self.bias = nn.Parameter(0.05 * random_tensor(WORDS))

    def forward(self, token: Tensor, mask: Tensor, *cache: Tensor) -> tuple[Tensor, ...]:
        """Return logits (N, 1, words) and the grown keys and values of each layer.

        `cache` has four tensors a layer: own keys and values, the source's keys and values.
        """
        past = cache[0].shape[2]
        x = self.words(token) * math.sqrt(WIDTH) + self.places[past : past + token.shape[1]]
        hidden, grown = _hidden(mask), list[Tensor]()
        for n, layer in enumerate(self.layers):
            x, keys, values = layer(x, hidden, *cache[4 * n : 4 * n + 4])
            grown += [keys, values]
        return functional.linear(x, self.words.weight, self.bias), *grown


def marian_encoder() -> Exportable:
    """Return the encoder: 0.02 GMAC a token."""
    module = TranslationEncoder().eval()
    draw_weights(module, 62)
    tokens = torch.arange(2 * 24).view(2, 24)
    names = ("input_ids", "attention_mask", "last_hidden_state")
    axes = {name: {0: "N", 1: "L"} for name in names}
    return Exportable(module, (tokens, torch.ones_like(tokens)), names[:2], names[2:], axes)


def marian_decoder() -> Exportable:
    """Return the decoder's step: `L` tokens of the source, `P` already written."""
    module = DecoderStep().eval()
    draw_weights(module, 63)
    own = [f"past.{n}.own.{part}" for n in range(DEPTH) for part in ("key", "value")]
    other = [f"past.{n}.source.{part}" for n in range(DEPTH) for part in ("key", "value")]
    pairs = [slice(2 * n, 2 * n + 2) for n in range(DEPTH)]
    cache = [name for pair in pairs for name in own[pair] + other[pair]]
    present = [name.replace("past", "present") for name in own]
    axes = {"input_ids": {0: "N"}, "attention_mask": {0: "N", 1: "L"}, "logits": {0: "N"}}
    axes |= {name: {0: "N", 2: "P"} for name in own}
    axes |= {name: {0: "N", 2: "L"} for name in other}
    axes |= {name: {0: "N", 2: "P + 1"} for name in present}
    lengths = [9 if name in own else 24 for name in cache]
    example = [random_tensor(2, HEADS, length, HEAD) for length in lengths]
    token, mask = torch.tensor([[3], [4]]), torch.ones((2, 24), dtype=torch.int64)
    inputs = ("input_ids", "attention_mask", *cache)
    return Exportable(module, (token, mask, *example), inputs, ("logits", *present), axes)
