"""Fourier transforms, of signals whose last axis holds 1 or 2 parts of a number: DFT, STFT."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from engine.dtypes import FLOATS
from engine.errors import InvalidModel
from engine.ir.types import Dim, TensorType, element_count, floordiv
from engine.ops.checks import INDICES, check_dtype
from engine.ops.common import Array, check_size, int_value, ints, narrow, normalize_axis, widen
from engine.ops.contexts import ComputeContext, InferContext
from engine.ops.registry import operator
from engine.ops.row_rules import follow, leading
from engine.ops.rows import RowContext, RowState

AXIS_IS_INPUT = 20  # the opset that made DFT's axis an input, and -2 its default


def _to_complex(xp: Any, x: Array) -> Array:
    """Join the parts on the last axis; a signal that is real stays so."""
    if x.shape[-1] == 1:
        return x[..., 0]
    if x.shape[-1] != 2:
        raise ValueError(f"the last axis must hold 1 or 2 parts of a number, not {x.shape[-1]}")
    return x[..., 0] + x.dtype.type(1) * 1j * x[..., 1]


def _to_parts(xp: Any, z: Array) -> Array:
    """Put real and imaginary part side by side on a new last axis."""
    return xp.stack([z.real, z.imag], axis=-1)


def _forward(xp: Any, signal: Array, length: int, axis: int, *, one_sided: bool) -> Array:
    """Transform `signal` (real or complex), cut or padded with zeros to `length`."""
    if one_sided and signal.dtype.kind != "c":
        return _to_parts(xp, xp.fft.rfft(signal, n=length, axis=axis))
    spectrum = xp.fft.fft(signal, n=length, axis=axis)
    if one_sided:
        half = [slice(None)] * spectrum.ndim
        half[axis] = slice(0, length // 2 + 1)
        spectrum = spectrum[tuple(half)]
    return _to_parts(xp, spectrum)


def _inverse(xp: Any, spectrum: Array, length: int, axis: int, *, one_sided: bool) -> Array:
    """Undo `_forward`; from half a spectrum comes a real signal."""
    if one_sided:
        return xp.fft.irfft(spectrum, n=length, axis=axis)[..., None]
    return _to_parts(xp, xp.fft.ifft(spectrum, n=length, axis=axis))


def _default_length(size: Dim, attributes: Any) -> Dim:
    return 2 * (size - 1) if attributes["inverse"] and attributes["onesided"] else size


def _static_axis(ctx: InferContext | RowContext) -> int | None:
    """The axis, not counted from either end yet; None when only running tells it."""
    if ctx.version < AXIS_IS_INPUT:
        return int(ctx.attributes["axis"])
    if len(ctx.types) < 3 or ctx.types[2] is None:
        return -2
    fixed = ctx.constants[2] if len(ctx.constants) > 2 else None
    return None if fixed is None else ints(fixed)[0]


def _signal_axis(axis: int, rank: int) -> int:
    """The axis counted from the front; the last one holds the parts of a number."""
    found = normalize_axis(axis, rank)
    if found == rank - 1:
        raise ValueError(f"axis {axis} holds the parts of a number, it is no axis of the signal")
    return found


@operator("DFT", since=(17, 20))
class DFT:
    """The discrete Fourier transform along one axis, or its inverse."""

    attributes = {"axis": 1, "inverse": 0, "onesided": 0}

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        """The axis gets the transform's length, the last one 2 parts (1 for a real result)."""
        check_dtype(ctx, 0, FLOATS)
        check_dtype(ctx, (1, 2), INDICES)
        x, axis = ctx.type(0), _static_axis(ctx)
        if x.shape is None:
            return [x]
        if len(x.shape) < 2:
            ctx.fail(f"the signal needs 2 axes at least, it is {x}")
        one_sided, inverse = bool(ctx.attributes["onesided"]), bool(ctx.attributes["inverse"])
        parts = 1 if one_sided and inverse else 2
        if axis is None:
            return [x.with_shape((*(ctx.fresh_dim("f") for _ in x.shape[:-1]), parts))]
        try:
            position = _signal_axis(axis, len(x.shape))
        except ValueError as error:
            ctx.fail(str(error))
        size = DFT.length(ctx, x.shape[position])
        if one_sided and not inverse:
            size = floordiv(size, 2) + 1
        return [x.with_shape((*x.shape[:position], size, *x.shape[position + 1 : -1], parts))]

    @staticmethod
    def length(ctx: InferContext, size: Dim) -> Dim:
        """How many points the transform has."""
        if not ctx.has(1):
            return _default_length(size, ctx.attributes)
        known = ctx.value(1)
        length = known[0] if known else ctx.fresh_dim("dft_length")
        if (number := int_value(length)) is not None and number < 1:
            ctx.fail(f"a transform of {number} points; expected 1 at least")
        return length

    @staticmethod
    def compute(
        ctx: ComputeContext, x: Array, length: Array | None = None, axis: Array | None = None
    ) -> Sequence[Array]:
        """Narrow floats compute in float32 and round once."""
        xp, attributes = ctx.xp, ctx.attributes
        if ctx.version < AXIS_IS_INPUT:
            along = _signal_axis(int(attributes["axis"]), x.ndim)
        else:
            along = _signal_axis(-2 if axis is None else ints(axis)[0], x.ndim)
        default = _default_length(x.shape[along], attributes)
        points = ints([default] if length is None else length)[0]
        if points < 1:
            raise ValueError(f"a transform of {points} points; expected 1 at least")
        check_size(ctx, (*x.shape[:along], points, *x.shape[along + 1 : -1], 4), xp.float32)
        transform = _inverse if attributes["inverse"] else _forward
        signal = _to_complex(xp, widen(xp, x))
        one_sided = bool(attributes["onesided"])
        y = transform(xp, signal, points, along, one_sided=one_sided)
        return [narrow(xp.ascontiguousarray(y), x.dtype)]

    @staticmethod
    def rows(ctx: RowContext) -> Sequence[RowState]:
        """Items must lie neither on the transformed axis nor on the parts'."""
        rank, axis = ctx.rank(0), _static_axis(ctx)
        if rank is None or axis is None:
            return ctx.mixed("its rank or axis is unknown")
        transformed = normalize_axis(axis, rank)
        return follow(ctx, lambda a: None if a in (transformed, rank - 1) else a)

    @staticmethod
    def flops(ctx: InferContext) -> Dim:
        """Five per point and halving; counted as one halving where the length is unknown."""
        return _transform_flops(DFT.infer(ctx)[0], _static_axis(ctx))


def _transform_flops(result: TensorType, axis: int | None) -> Dim:
    if result.shape is None or axis is None:
        return 0
    length = int_value(result.shape[axis])
    return 5 * element_count(result.shape[:-1]) * (1 if length is None else length.bit_length())


@operator("STFT", since=17)
class STFT:
    """Fourier transforms of frames that slide over a signal, each weighed by a window."""

    attributes = {"onesided": 1}
    rows = staticmethod(leading)

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        """(batch, frames, bins, 2).

        Torch exports real signals as [batch, length], which ONNX Runtime takes too.
        """
        check_dtype(ctx, (0, 2), FLOATS)
        check_dtype(ctx, (1, 3), INDICES)
        x, known = ctx.type(0), ctx.value(1)
        if x.shape is not None and len(x.shape) not in (2, 3):
            ctx.fail(f"the signal must be [batch, length, 1 or 2], it is {x}")
        shape = x.shape or (ctx.fresh_dim("N"), ctx.fresh_dim("length"), 1)
        frame = STFT.frame_length(ctx, shape[1])
        frames: Dim = ctx.fresh_dim("frames")
        if known:
            step = int_value(known[0])
            if step is not None and step < 1:
                ctx.fail(f"frame_step is {step}; expected 1 at least")
            frames = floordiv(shape[1] - frame, known[0]) + 1
        if (count := int_value(frames)) is not None and count < 1:
            ctx.fail(f"a signal of {shape[1]} is shorter than a frame of {frame}")
        bins = floordiv(frame, 2) + 1 if ctx.attributes["onesided"] else frame
        return [x.with_shape((shape[0], frames, bins, 2))]

    @staticmethod
    def frame_length(ctx: InferContext, signal_length: Dim) -> Dim:
        """As stated, else the window's, else the whole signal."""
        window = ctx.shape(2) if ctx.has(2) else None
        if ctx.has(3):
            known = ctx.value(3)
            stated = known[0] if known else None
            if (number := int_value(stated)) is not None and number < 1:
                ctx.fail(f"frame_length is {number}; expected 1 at least")
            if stated is not None:
                return stated
        if window is not None:
            if len(window) != 1:
                ctx.fail(f"the window must have one axis, it has {len(window)}")
            return window[0]
        unknown = ctx.has(2) or ctx.has(3)
        return ctx.fresh_dim("frame") if unknown else signal_length

    @staticmethod
    def compute(
        ctx: ComputeContext,
        x: Array,
        step: Array,
        window: Array | None = None,
        length: Array | None = None,
    ) -> Sequence[Array]:
        """All frames are gathered, then transformed in one call."""
        xp, hop = ctx.xp, ints(step)[0]
        size = x.shape[1] if window is None else window.shape[0]
        frame = size if length is None else ints(length)[0]
        if window is not None and window.shape != (frame,):
            raise ValueError(f"a window of {list(window.shape)} for frames of {frame}")
        if hop < 1 or not 1 <= frame <= x.shape[1]:
            raise ValueError(f"frames of {frame}, {hop} apart, in a signal of {x.shape[1]}")
        count = (x.shape[1] - frame) // hop + 1
        check_size(ctx, (x.shape[0], count, frame, 4), xp.float32)
        places = xp.arange(count)[:, None] * hop + xp.arange(frame)[None, :]  # (frames, frame)
        signal = _to_complex(xp, widen(xp, x if x.ndim > 2 else x[..., None]))  # (N, length)
        framed = signal[:, places]  # (N, frames, frame)
        if window is not None:
            framed = framed * widen(xp, window)
        one_sided = bool(ctx.attributes["onesided"])
        return [narrow(_forward(xp, framed, frame, 2, one_sided=one_sided), x.dtype)]

    @staticmethod
    def flops(ctx: InferContext) -> Dim:
        """As for a transform of every frame."""
        try:
            return _transform_flops(STFT.infer(ctx)[0], 2)
        except InvalidModel:
            return 0
