"""Nets over sequences: recurrent classifiers, loops that write a sentence, convolutions in time."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from tests.networks.exporters.common import Axes, Export, network, numbers, tokens
from tests.networks.exporters.from_torch import dynamo, script, settled

WORDS = 40
SEQUENCE: Axes = {"x": {0: "batch", 1: "length"}}


class Recurrent(nn.Module):
    """Embedding, recurrent layers, classes from the last state and the mean over time."""

    def __init__(self, kind: type[nn.RNNBase], both: bool, layers: int = 1) -> None:
        super().__init__()
        self.embed = nn.Embedding(WORDS, 12)
        self.body = kind(12, 16, layers, batch_first=True, bidirectional=both)
        self.head = nn.Linear(2 * (32 if both else 16), 5)

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.body(self.embed(x))
        return self.head(torch.cat([y[:, -1], y.mean(1)], 1))


class Packed(nn.Module):
    """Rows of their own lengths."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.LSTM(6, 10, batch_first=True), nn.Linear(10, 4)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths, True, enforce_sorted=True)
        y, _ = nn.utils.rnn.pad_packed_sequence(self.body(packed)[0], batch_first=True)
        return self.head(y.sum(1))


class Cell(nn.Module):
    """A gated unit written out, for scripts."""

    def __init__(self, inputs: int, size: int) -> None:
        super().__init__()
        self.gates, self.new = nn.Linear(inputs + size, 2 * size), nn.Linear(inputs + size, size)

    def forward(self, x: Tensor, state: Tensor) -> Tensor:
        update, reset = torch.chunk(torch.sigmoid(self.gates(torch.cat([x, state], 1))), 2, 1)
        fresh = torch.tanh(self.new(torch.cat([x, reset * state], 1)))
        return update * state + (1 - update) * fresh


class Greedy(nn.Module):
    """Encoder and decoder with attention; writes as many words as it read, always the likeliest."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(WORDS, 12)
        self.encode, self.decode = Cell(12, 16), Cell(28, 16)
        self.head = nn.Linear(16, WORDS)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        words = self.embed(x)
        state = torch.zeros(x.size(0), 16)
        seen = torch.zeros(x.size(0), 0, 16)
        for t in range(x.size(1)):
            state = self.encode(words[:, t], state)
            seen = torch.cat([seen, state.unsqueeze(1)], 1)
        word = x[:, 0]
        written = torch.zeros(x.size(0), 0, dtype=torch.int64)
        logits = self.head(state)
        for _ in range(x.size(1)):
            weight = torch.softmax(torch.matmul(seen, state.unsqueeze(2)).squeeze(2), 1)
            context = torch.matmul(weight.unsqueeze(1), seen).squeeze(1)
            state = self.decode(torch.cat([self.embed(word), context], 1), state)
            logits = self.head(state)
            word = logits.argmax(1)
            written = torch.cat([written, word.unsqueeze(1)], 1)
        return written, logits


class Until(nn.Module):
    """Goes on until the answer hardly changes, or twenty steps: a loop with a condition."""

    def __init__(self) -> None:
        super().__init__()
        self.step, self.read = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        state, change, steps = torch.zeros_like(x), torch.tensor(1.0), 0
        while bool(change > 0.02) and steps < 20:
            fresh = torch.tanh(self.step(state) * 0.5 + self.read(x))
            if steps > 2:
                fresh = (fresh + state) / 2
            change = (fresh - state).abs().max()
            state, steps = fresh, steps + 1
        return state


class Causal(nn.Module):
    """A block of a temporal convolutional net: dilated, padded, and cut on the right."""

    def __init__(self, inputs: int, outputs: int, dilation: int) -> None:
        super().__init__()
        self.cut = 2 * dilation
        self.first = weight_norm(nn.Conv1d(inputs, outputs, 3, 1, self.cut, dilation))
        self.second = weight_norm(nn.Conv1d(outputs, outputs, 3, 1, self.cut, dilation))
        self.skip = nn.Conv1d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.first(x)[:, :, : -self.cut])
        y = F.relu(self.second(y)[:, :, : -self.cut])
        return F.relu(y + self.skip(x))


class Translator(nn.Module):
    """torch's own transformer, encoder and decoder, the decoder seeing only what went before."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(WORDS, 16)
        self.position = nn.Parameter(torch.randn(1, 16, 16) * 0.5)
        self.body = nn.Transformer(16, 4, 1, 1, 32, dropout=0.0, batch_first=True)
        self.head = nn.Linear(16, WORDS)

    def forward(self, x: Tensor, written: Tensor) -> Tensor:
        length = written.size(1)
        ahead = torch.full((length, length), float("-inf")).triu(1)
        source, target = (self.embed(v) + self.position[:, : v.size(1)] for v in (x, written))
        return self.head(self.body(source, target, tgt_mask=ahead, tgt_is_causal=True))


class Spectral(nn.Module):
    """Sound, its spectrogram, two convolutions over time."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("window", torch.hann_window(32))
        self.body = nn.Sequential(nn.Conv1d(17, 12, 3), nn.ReLU(), nn.Conv1d(12, 6, 3))

    def forward(self, x: Tensor) -> Tensor:
        parts = torch.stft(x, 32, 8, window=self.window, center=False, return_complex=False)
        power = parts.pow(2).sum(-1)
        return self.body(torch.log(power + 1e-3)).amax(2)


def sentences(*sizes: tuple[int, int]) -> list[dict[str, object]]:
    """Return one case per (rows, length)."""
    return [{"x": tokens(n, t, below=WORDS, seed=i)} for i, (n, t) in enumerate(sizes)]


@network
def lstm() -> Export:
    net, feeds = settled(Recurrent(nn.LSTM, both=True)), sentences((2, 7), (3, 4))
    return Export(script(net, feeds[0], SEQUENCE, ["y"], opset=9), feeds)


@network
def lstm_dynamo() -> Export:
    net, feeds = settled(Recurrent(nn.LSTM, both=False, layers=2)), sentences((2, 7), (3, 7))
    return Export(dynamo(net, feeds[0], {"x": {0: "batch"}}, ["y"], opset=18), feeds)


@network
def gru() -> Export:
    net, feeds = settled(Recurrent(nn.GRU, both=True, layers=2)), sentences((2, 6), (1, 9))
    return Export(script(net, feeds[0], SEQUENCE, ["y"], opset=12), feeds)


@network
def rnn() -> Export:
    net, feeds = settled(Recurrent(nn.RNN, both=False)), sentences((2, 6), (1, 9))
    return Export(script(net, feeds[0], SEQUENCE, ["y"], opset=15), feeds)


@network
def lstm_packed() -> Export:
    feeds = [
        {"x": numbers(3, 6, 6), "lengths": torch.tensor([6, 4, 1]).numpy()},
        {"x": numbers(2, 5, 6, seed=1), "lengths": torch.tensor([5, 5]).numpy()},
    ]
    axes: Axes = {"x": {0: "batch", 1: "length"}, "lengths": {0: "batch"}}
    return Export(script(settled(Packed()), feeds[0], axes, ["y"], opset=13), feeds)


@network
def seq2seq_loop() -> Export:
    net, feeds = settled(Greedy()), sentences((2, 5), (3, 8))
    output: Axes = {"words": {0: "batch", 1: "length"}, "logits": {0: "batch"}}
    model = script(
        torch.jit.script(net), feeds[0], SEQUENCE, list(output), opset=13, output_axes=output
    )
    return Export(model, feeds)


@network
def until_loop() -> Export:
    net = settled(Until())
    feeds = [{"x": numbers(2, 8)}, {"x": numbers(3, 8, seed=1, scale=0.1)}]
    model = script(torch.jit.script(net), feeds[0], {"x": {0: "batch"}}, ["y"], opset=16)
    return Export(model, feeds)


@network
def tcn() -> Export:
    net = nn.Sequential(Causal(4, 12, 1), Causal(12, 12, 2), Causal(12, 12, 4))
    feeds = [{"x": numbers(2, 4, 20)}, {"x": numbers(1, 4, 33, seed=1)}]
    axes: Axes = {"x": {0: "batch", 2: "length"}}
    model = script(
        settled(net), feeds[0], axes, ["y"], opset=14, output_axes={"y": {0: "batch", 2: "length"}}
    )
    return Export(model, feeds)


@network
def tcn_dynamo() -> Export:
    net = nn.Sequential(Causal(4, 12, 1), Causal(12, 12, 2), Causal(12, 12, 4))
    feeds = [{"x": numbers(2, 4, 20)}, {"x": numbers(3, 4, 33, seed=1)}]
    axes: Axes = {"x": {0: "batch", 2: "length"}}
    return Export(dynamo(settled(net), feeds[0], axes, ["y"], opset=20), feeds)


@network
def translator() -> Export:
    feeds = [
        {"x": tokens(2, 6, below=WORDS), "written": tokens(2, 4, below=WORDS, seed=1)},
        {"x": tokens(3, 5, below=WORDS, seed=2), "written": tokens(3, 7, below=WORDS, seed=3)},
    ]
    axes: Axes = {"x": {0: "batch", 1: "read"}, "written": {0: "batch", 1: "length"}}
    return Export(dynamo(settled(Translator()), feeds[0], axes, ["y"], opset=20), feeds)


@network
def spectrogram() -> Export:
    feeds = [{"x": numbers(2, 128)}, {"x": numbers(3, 128, seed=1)}]
    return Export(
        script(settled(Spectral()), feeds[0], {"x": {0: "batch"}}, ["y"], opset=17), feeds
    )
