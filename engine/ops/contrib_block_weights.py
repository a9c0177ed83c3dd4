"""Weights of 2, 4 or 8 bits in blocks that share a scale, as language models are packed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from engine.dtypes import DType
from engine.ir.types import Dim, TensorType, element_count
from engine.ops.common import Array, check_size, int_value, narrow, normalize_axis, widen
from engine.ops.contexts import ComputeContext, InferContext
from engine.ops.contrib_common import MICROSOFT, check_fits
from engine.ops.registry import REQUIRED, Kernel, operator
from engine.ops.row_rules import follow
from engine.ops.rows import RowContext, RowState

BITS = (2, 4, 8)
CHUNK = 1 << 22  # weights made wide at once
KEPT = 1 << 22  # weights that are made wide once for all calls


def unpack(xp: Any, packed: Array, bits: int) -> Array:  # (..., n) -> (..., n * 8 / bits)
    """Codes of `bits` bits each, the lowest bits of a byte first."""
    if bits == 8:
        return packed
    shifts = xp.arange(0, 8, bits, dtype=xp.uint8)
    codes = (packed[..., None] >> shifts) & xp.uint8((1 << bits) - 1)
    return codes.reshape(*packed.shape[:-1], -1)


def _ceil(a: int, b: int) -> int:
    return -(-a // b)


def _check_block(ctx: InferContext) -> None:
    bits, block = int(ctx.attributes["bits"]), int(ctx.attributes["block_size"])
    if bits not in BITS:
        ctx.fail(f"bits must be 2, 4 or 8, got {bits}")
    if block < 16 or block & (block - 1):
        ctx.fail(f"block_size must be a power of two and 16 or more, got {block}")


@operator("MatMulNBits", since=1, domain=MICROSOFT)
class MatMulNBits:
    """`A @ W' + bias` with W (N, K) in blocks along K, each with a scale and a zero point."""

    attributes = {
        "K": REQUIRED,
        "N": REQUIRED,
        "accuracy_level": 0,
        "bits": 4,
        "block_size": REQUIRED,
        "weight_prepacked": 0,
    }

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        """The last dim becomes N."""
        a, attributes = ctx.shape(0), ctx.attributes
        _check_block(ctx)
        if attributes["weight_prepacked"]:
            ctx.unsupported("weights packed for one kind of GPU (weight_prepacked)")
        n, k, block = (int(attributes[name]) for name in ("N", "K", "block_size"))
        if min(n, k) < 1:
            ctx.fail(f"N and K must be 1 or more, got {n} and {k}")
        if a is not None and (not a or int_value(a[-1]) not in (None, k)):
            ctx.fail(f"expected {k} entries on the last axis of A, got {list(a)}")
        packed = ctx.shape(1)
        size = n * _ceil(k, block) * block
        stored = None if packed is None else int_value(element_count(packed))
        if stored is not None and stored * 8 != size * attributes["bits"]:
            ctx.fail(f"weights {list(packed or ())} do not hold {n} x {k} in blocks")
        return [ctx.type(0).with_shape(None if a is None else (*a[:-1], n))]

    @staticmethod
    def compute(
        ctx: ComputeContext,
        a: Array,
        packed: Array,
        scales: Array,
        zeros: Array | None = None,
        groups: Array | None = None,
        bias: Array | None = None,
    ) -> Sequence[Array]:
        """Some rows of weights are made wide at a time."""
        weights = BlockWeights(ctx, packed, scales, zeros, groups)
        return [_multiply(ctx, a, weights, bias)]

    @staticmethod
    def bind(ctx: ComputeContext) -> Kernel | None:
        """Small weights are made wide once."""
        fixed = [ctx.constant(i) for i in range(1, 5)]
        names = [*ctx.node.inputs, "", "", "", "", ""]
        open_ones = [i for i in range(1, 5) if names[i] and fixed[i - 1] is None]
        if open_ones or ctx.attributes["N"] * ctx.attributes["K"] > KEPT:
            return None
        packed, scales, zeros, groups = fixed
        weights = BlockWeights(ctx, packed, scales, zeros, groups)
        wide = weights.rows(0, weights.count)

        def run(a: Array, *rest: Array | None) -> Sequence[Array]:
            bias = rest[4] if len(rest) > 4 else None
            check_fits((weights.count,), bias)
            y = ctx.xp.matmul(widen(ctx.xp, a), wide.swapaxes(0, 1))
            return [narrow(y if bias is None else y + widen(ctx.xp, bias), a.dtype)]

        return run

    @staticmethod
    def rows(ctx: RowContext) -> Sequence[RowState]:
        """Items lie anywhere but on the last axis."""
        rank = ctx.rank(0)
        if not rank:
            return ctx.mixed("its rank is unknown")
        return follow(ctx, lambda axis: None if axis == rank - 1 else axis)

    @staticmethod
    def flops(ctx: InferContext) -> Dim:
        """Two per multiply-add."""
        a = ctx.shape(0)
        return 0 if a is None else 2 * element_count(a) * ctx.attributes["N"]


class BlockWeights:
    """Packed weights (N, K), made wide by rows."""

    def __init__(
        self,
        ctx: ComputeContext,
        packed: Array,
        scales: Array,
        zeros: Array | None,
        groups: Array | None,
    ) -> None:
        attributes, self._xp = ctx.attributes, ctx.xp
        self._bits, self._block = int(attributes["bits"]), int(attributes["block_size"])
        self.count, self._k = int(attributes["N"]), int(attributes["K"])
        self._blocks = _ceil(self._k, self._block)
        blob = self._block * self._bits // 8
        if packed.size != self.count * self._blocks * blob:
            raise ValueError(f"weights {packed.shape} do not hold {self.count} x {self._k}")
        if scales.size != self.count * self._blocks:
            raise ValueError(f"scales {scales.shape} for {self.count} x {self._blocks} blocks")
        self._packed = packed.reshape(self.count, self._blocks * blob)
        self._scales = scales.reshape(self.count, self._blocks)
        self._zeros = None if zeros is None else self._zero_points(zeros)
        self._groups = None if groups is None else self._checked(groups.reshape(-1)[: self._k])

    def _zero_points(self, zeros: Array) -> Array:  # (N, blocks), or packed bytes of each row
        if zeros.dtype != self._xp.uint8:
            return zeros.reshape(self.count, self._blocks)
        return zeros.reshape(self.count, _ceil(self._blocks * self._bits, 8))

    def _checked(self, groups: Array) -> Array:
        low, high = int(groups.min()), int(groups.max())
        if len(groups) != self._k or not 0 <= low <= high < self._blocks:
            raise ValueError(f"g_idx must name one of {self._blocks} blocks for each of {self._k}")
        return groups

    def rows(self, start: int, stop: int) -> Array:  # (stop - start, K)
        """Rows of the weights as wide floats."""
        xp, part = self._xp, slice(start, stop)
        codes = unpack(xp, self._packed[part], self._bits)
        scales = widen(xp, self._scales[part])
        value = codes.astype(scales.dtype)
        zeros: Any = xp.asarray(1 << (self._bits - 1), dtype=scales.dtype)
        if self._zeros is not None:
            zeros = self._zeros[part]
            if zeros.dtype == xp.uint8:
                zeros = unpack(xp, zeros, self._bits)[:, : self._blocks]
            zeros = widen(xp, zeros).astype(scales.dtype)
        if self._groups is not None:
            shift = zeros[:, self._groups] if zeros.ndim else zeros
            return (value[:, : self._k] - shift) * scales[:, self._groups]
        value = value.reshape(-1, self._blocks, self._block)
        value -= zeros[..., None] if zeros.ndim else zeros
        value *= scales[..., None]
        return value.reshape(len(scales), -1)[:, : self._k]


def _multiply(ctx: ComputeContext, a: Array, weights: BlockWeights, bias: Array | None) -> Array:
    xp = ctx.xp
    wide = widen(xp, a)
    shape = (*a.shape[:-1], weights.count)
    check_size(ctx, shape, wide.dtype)
    check_fits((weights.count,), bias)
    y = xp.empty(shape, dtype=wide.dtype)
    step = max(1, CHUNK // int(ctx.attributes["K"]))
    for start in range(0, weights.count, step):
        stop = min(start + step, weights.count)
        y[..., start:stop] = xp.matmul(wide, weights.rows(start, stop).swapaxes(0, 1))
    return narrow(y if bias is None else y + widen(xp, bias), a.dtype)


@operator("GatherBlockQuantized", since=1, domain=MICROSOFT)
class GatherBlockQuantized:
    """Gather of quantized slices, made wide; blocks along `quantize_axis` share a scale.

    A table of uint8 holds `bits` bits per entry, packed along its last axis.
    """

    attributes = {"bits": 4, "block_size": 128, "gather_axis": 0, "quantize_axis": 1}

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        """The indices' dims in place of the gathered one."""
        _check_block(ctx)
        table, indices = ctx.type(0), ctx.shape(1)
        kind = ctx.type(2)
        if table.dtype.is_float:
            ctx.unsupported(f"a table of {table.dtype} is not supported")
        if table.shape is None or indices is None:
            return [kind.with_shape(None)]
        shape = list(table.shape)
        if not shape:
            ctx.fail("expected a table of rank 1 or more")
        gathered = ctx.normal_axis(ctx.attributes["gather_axis"], len(shape))
        blocked = ctx.normal_axis(ctx.attributes["quantize_axis"], len(shape))
        if gathered == blocked:
            ctx.fail(f"it gathers on axis {gathered}, along which the blocks lie")
        if table.dtype is DType.UINT8:
            if gathered == len(shape) - 1 and ctx.attributes["bits"] < 8:
                ctx.fail("packed entries cannot be gathered one by one")
            shape[-1] = shape[-1] * (8 // ctx.attributes["bits"])
        return [kind.with_shape((*shape[:gathered], *indices, *shape[gathered + 1 :]))]

    @staticmethod
    def compute(
        ctx: ComputeContext,
        table: Array,
        indices: Array,
        scales: Array,
        zeros: Array | None = None,
    ) -> Sequence[Array]:
        """Only what is gathered is made wide; an index outside of the table gives zeros."""
        xp, attributes = ctx.xp, ctx.attributes
        axis = normalize_axis(attributes["gather_axis"], table.ndim)
        blocked = normalize_axis(attributes["quantize_axis"], table.ndim)
        packed = DType.from_numpy(table.dtype) is DType.UINT8
        bits = int(attributes["bits"]) if packed else 8
        size = table.shape[axis]
        places = xp.where(indices < 0, indices + size, indices)
        inside = (places >= 0) & (places < size)
        places = xp.where(inside, places, 0) if size else places
        codes = xp.take(table, places, axis=axis)
        codes = unpack(xp, codes, bits) if packed else codes
        check_size(ctx, codes.shape, xp.float32)
        # Behind the gathered axis everything moves by the rank of the indices.
        blocked += places.ndim - 1 if blocked > axis else 0
        count, block = codes.shape[blocked], int(attributes["block_size"])
        factor = widen(xp, xp.take(scales, places, axis=axis))
        factor = _spread(xp, factor, blocked, block, count)
        shift: Any = xp.float32((1 << (bits - 1)) if packed else 0)
        if zeros is not None:
            own = xp.take(zeros, places, axis=axis)
            own = unpack(xp, own, bits) if packed else own
            shift = _spread(xp, own.astype(factor.dtype), blocked, block, count)
        y = (codes.astype(factor.dtype) - shift) * factor
        shape = [1] * axis + list(inside.shape) + [1] * (table.ndim - axis - 1)
        return [narrow(xp.where(inside.reshape(shape), y, xp.float32(0)), scales.dtype)]

    @staticmethod
    def rows(ctx: RowContext) -> Sequence[RowState]:
        """Items lie on an axis of the indices."""
        rank = ctx.rank(0)
        if rank is None:
            return ctx.mixed("a rank is unknown")
        axis = normalize_axis(ctx.attributes["gather_axis"], rank)
        return follow(ctx, lambda a: a + axis, data=1)


def _spread(xp: Any, values: Array, axis: int, block: int, count: int) -> Array:
    """One value per entry out of one per block."""
    if values.shape[axis] != _ceil(count, block):
        raise ValueError(f"{values.shape} does not hold one value per block of {block} of {count}")
    index = xp.arange(count) // block
    return xp.take(values, index, axis=axis)
