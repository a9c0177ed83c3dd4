"""Times single convolution kernels on one thread, without graphs, plans or threads.

    python -m benchmarks.engine.kernels [resnet50] [mobilenetv2] [--batch 1] [--filter 3x3]

Every distinct layer of a network runs alone, on random numbers, several times in a row; what is
printed is the best time, the rate, and how long the kernel took to compile.
"""

from __future__ import annotations

import argparse
import ctypes
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.cpu.image_layout import ImageLayout
from engine.cpu.kernel import Kernel
from engine.cpu.kernels.conv import ConvSchedule, ImageConv
from engine.cpu.kernels.depthwise import DepthwiseConv, DepthwiseSchedule
from engine.cpu.kernels.schedule import schedule_conv, schedule_depthwise
from engine.cpu.native import LoadedObject, compile_text, emit_text
from engine.cpu.runtime.memory import Block
from engine.cpu.target import Target, host_target

RELU = "x0:float32; 0.0:float32; max #0 #1"
RESIDUAL = "x0:float32; x1:float32; add #0 #1; 0.0:float32; max #2 #3"
SECONDS = 0.002  # of one sample: short, so that the best of many tells of an undisturbed machine
SAMPLES = 41


@dataclass(frozen=True)
class Layer:
    """A convolution of square pictures, and how often a network has it."""

    size: int
    channels: int
    filters: int
    kernel: int = 1
    stride: int = 1
    times: int = 1
    depthwise: bool = False
    residual: bool = False
    border_after: int = 0

    def __str__(self) -> str:
        kind = "depthwise " if self.depthwise else ""
        tail = f" /{self.stride}" if self.stride > 1 else ""
        tail += " +residual" if self.residual else ""
        window = f"{self.kernel}x{self.kernel}"
        return f"{kind}{window} {self.channels}->{self.filters} at {self.size}{tail}"

    @property
    def outputs(self) -> int:
        """Pixels in a row of the result."""
        return -(-self.size // self.stride)

    @property
    def flops(self) -> int:
        """Operations of one picture."""
        per_group = 1 if self.depthwise else self.channels
        return 2 * self.outputs**2 * self.filters * per_group * self.kernel**2


def resnet50() -> Iterator[Layer]:
    """The convolutions of ResNet-50 at 224 pixels."""
    yield Layer(224, 3, 64, 7, 2)
    size, channels = 56, 64
    for stage, (width, blocks) in enumerate(((64, 3), (128, 4), (256, 6), (512, 3))):
        stride = 1 if stage == 0 else 2
        wide = width * 4
        yield Layer(size, channels, width, times=1, border_after=1)
        yield Layer(size, channels, wide, stride=stride)
        yield Layer(size, width, width, 3, stride)
        size //= stride
        yield Layer(size, width, wide, times=blocks, residual=True)
        yield Layer(size, wide, width, times=blocks - 1, border_after=1)
        yield Layer(size, width, width, 3, times=blocks - 1)
        channels = wide


def mobilenetv2() -> Iterator[Layer]:
    """The convolutions of MobileNetV2 at 224 pixels."""
    yield Layer(224, 3, 32, 3, 2)
    yield Layer(112, 32, 32, 3, depthwise=True)
    yield Layer(112, 32, 16)
    size, channels = 112, 16
    for width, blocks, stride in (
        (24, 2, 2),
        (32, 3, 2),
        (64, 4, 2),
        (96, 3, 1),
        (160, 3, 2),
        (320, 1, 1),
    ):
        for block in range(blocks):
            step = stride if block == 0 else 1
            wide = channels * 6
            yield Layer(size, channels, wide, border_after=1)
            yield Layer(size, wide, wide, 3, step, depthwise=True)
            size //= step
            yield Layer(size, wide, width, residual=block > 0)
            channels = width
    yield Layer(size, 320, 1280)


NETWORKS = {"resnet50": resnet50, "mobilenetv2": mobilenetv2}


def layouts(layer: Layer, target: Target) -> tuple[ImageLayout, ImageLayout]:
    """Return the pictures before and after a layer."""
    thin = layer.channels * 2 <= target.lanes
    held = layer.channels if thin else target.whole_vectors(layer.channels)
    before = ImageLayout(layer.size, layer.size, layer.channels, held, held, layer.kernel // 2)
    held, size = target.whole_vectors(layer.filters), layer.outputs
    return before, ImageLayout(size, size, layer.filters, held, held, layer.border_after)


def kernel_of(layer: Layer, target: Target) -> ImageConv | DepthwiseConv:
    """Return the kernel of a layer, scheduled."""
    x, y = layouts(layer, target)
    pair = layer.kernel, layer.kernel
    steps, pads = (layer.stride, layer.stride), (layer.kernel // 2, layer.kernel // 2)
    if layer.depthwise:
        schedule = DepthwiseSchedule(1, 1)
        whole = DepthwiseConv(x, y, pair, steps, (1, 1), pads, schedule, RELU)
        return schedule_depthwise(whole, target)
    epilogue, extras = (RESIDUAL, (y,)) if layer.residual else (RELU, ())
    return schedule_conv(
        ImageConv(x, y, pair, steps, (1, 1), pads, ConvSchedule(1, 1), 1, epilogue, extras), target
    )


def operands_of(layer: Layer, batch: int, target: Target) -> list[np.ndarray[Any, Any]]:
    """Return random operands in the order that the kernel takes them."""
    x, y = layouts(layer, target)
    columns = -(-y.held // target.tile_columns) * target.tile_columns
    terms = layer.kernel**2 * (1 if layer.depthwise else layer.channels)
    sizes = [batch * y.picture, batch * x.picture, terms * columns, columns]
    if layer.residual:
        sizes.append(batch * y.picture)
    return [random_numbers(size) for size in sizes]


def random_numbers(count: int) -> np.ndarray[Any, Any]:
    """Return float32 on huge pages."""
    numbers = Block(max(count * 4, 64)).array.view(np.float32)[:count]
    numbers[...] = np.random.default_rng(0).standard_normal(count, dtype=np.float32)
    return numbers


def measure(
    kernel: Kernel, operands: Sequence[np.ndarray[Any, Any]], batch: int, tasks: int, flops: float
) -> tuple[float, float, float]:
    """Return the best and the median seconds of one pass over all tasks, and seconds to compile."""
    target = host_target()
    began = time.perf_counter()
    code = LoadedObject(compile_text(emit_text(kernel, "kernel", target), target), target)
    compiled = time.perf_counter() - began
    kinds = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p]
    function = code.function("kernel", *kinds)
    pointers = np.array([a.ctypes.data for a in operands], np.int64)
    numbers = np.array([batch], np.int64)
    scratch = Block(kernel.scratch_bytes(target) + 64)
    arguments = (pointers.ctypes.data, numbers.ctypes.data, 0, tasks, scratch.address)
    turns = max(1, int(SECONDS / (flops / 200e9)))
    times = []
    function(*arguments)
    for _ in range(SAMPLES):
        began = time.perf_counter()
        for _ in range(turns):
            function(*arguments)
        times.append((time.perf_counter() - began) / turns)
    return min(times), statistics.median(times), compiled


def report(layers: Sequence[Layer], batch: int) -> None:
    """Measure layers and print a line for each, and the sum."""
    target, total, flops = host_target(), 0.0, 0.0
    for layer in layers:
        kernel = kernel_of(layer, target)
        operands = operands_of(layer, batch, target)
        tasks = kernel.tasks(batch, target)
        assert isinstance(tasks, int)
        work = float(layer.flops * batch)
        best, median, compiled = measure(kernel, operands, batch, tasks, work)
        total += best * layer.times
        flops += work * layer.times
        print(
            f"{layer!s:36} {best * 1e6:9.1f} us {work / best / 1e9:6.1f} GFLOP/s "
            f"(median {work / median / 1e9:6.1f}) {tasks:5d} tasks, "
            f"compiled in {compiled * 1e3:4.0f} ms {kernel.schedule}"
        )
    print(f"{'all':36} {total * 1e6:9.1f} us {flops / total / 1e9:6.1f} GFLOP/s")


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("networks", nargs="*", default=["resnet50"], choices=list(NETWORKS))
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--filter", default="", help="only layers whose text contains this")
    options = parser.parse_args()
    for name in options.networks:
        layers = [x for x in dict.fromkeys(NETWORKS[name]()) if options.filter in str(x)]
        print(f"{name}, batch {options.batch}, one thread")
        report(layers, options.batch)


if __name__ == "__main__":
    main()
