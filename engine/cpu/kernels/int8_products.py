"""Sums of products of bytes, left sides unsigned and right sides signed, on any target.

With VNNI one instruction adds four products to each of the 32-bit lanes. Elsewhere bytes are
widened to 16 bits and pairs of products are added: `pmaddubsw`, which takes bytes, saturates and
would not be exact. Weights are packed to suit: groups of four bytes, or of two 16-bit numbers, per
column, so that a step of either kind reads the same number of bytes.
"""

from __future__ import annotations

import numpy as np

from engine.cpu.builder import I16, I32, Builder, Value, vector
from engine.cpu.kernels.panels import Panels
from engine.cpu.kernels.square import shuffled
from engine.cpu.target import Target

QUAD = 4  # runs of neighbours are whole quads on every target, so that layouts do not depend on it
COLUMN_BYTES = 4  # weights of one column in one step

_MULTIPLY_PAIRS = {
    4: "llvm.x86.sse2.pmadd.wd",
    8: "llvm.x86.avx2.pmadd.wd",
    16: "llvm.x86.avx512.pmaddw.d.512",
}


def terms_per_step(target: Target) -> int:
    """Return how many products one step adds to a lane."""
    return QUAD if target.has_int8_dot else 2


def packed_row_bytes(target: Target) -> int:
    """Return the bytes of packed weights per term and column."""
    return COLUMN_BYTES // terms_per_step(target)


def load_terms(f: Builder, pointer: Value, *, signed: bool) -> Value:
    """Return neighbouring bytes of the left side in every lane, ready to be multiplied.

    Signed ones are taken 128 higher, which their zero point must follow.
    """
    if f.target.has_int8_dot:
        four = f.b.load(pointer, typ=I32, align=1)
        return f.splat(f.b.xor(four, I32(0x80808080 - (1 << 32))) if signed else four)
    two = f.b.load(pointer, typ=I16, align=1)
    two = f.b.zext(f.b.xor(two, I16(0x8080 - (1 << 16))) if signed else two, I32)
    apart = f.b.or_(two, f.b.shl(two, I32(8)))
    return f.splat(f.b.and_(apart, I32(0x00FF00FF)))


def load_weights(f: Builder, pointer: Value) -> Value:
    """Return the packed weights of one vector of columns."""
    return f.b.load(pointer, typ=vector(I32, f.lanes), align=4)


def add_products(f: Builder, total: Value, x: Value, w: Value) -> Value:
    """Return the sums after one step; x as `load_terms` gives it, w as `load_weights` does."""
    if f.target.has_int8_dot:
        name = f"llvm.x86.avx512.vpdpbusd.{32 * f.lanes}"
        return f.call(f.intrinsic(name, total.type, [total.type] * 3), total, x, w)
    return f.b.add(total, _pairs(f, x, w))


def add_pairs(f: Builder, total: Value, x: Value, w: Value) -> Value:
    """Return the sums after one step of pairs of 16-bit numbers, both sides signed."""
    if f.target.has_int8_dot:
        name = f"llvm.x86.avx512.vpdpwssd.{32 * f.lanes}"
        return f.call(f.intrinsic(name, total.type, [total.type] * 3), total, x, w)
    return f.b.add(total, _pairs(f, x, w))


def _pairs(f: Builder, x: Value, w: Value) -> Value:
    halves = vector(I16, 2 * f.lanes)
    x, w = f.b.bitcast(x, halves), f.b.bitcast(w, halves)
    wide = vector(I32, f.lanes)
    if f.target.is_x86:
        return f.call(f.intrinsic(_MULTIPLY_PAIRS[f.lanes], wide, [halves, halves]), x, w)
    products = []
    for part in (0, 1):
        lanes = list(range(part, 2 * f.lanes, 2))
        sides = (f.b.sext(shuffled(f, side, side, lanes), wide) for side in (x, w))
        products.append(f.b.mul(*sides))
    return f.b.add(*products)


def pack_integer_panels(matrix: np.ndarray, panels: Panels, target: Target) -> np.ndarray:
    """Return (K, N) integers that fit int8, K whole quads, as panels; columns are padded with 0."""
    group = terms_per_step(target)
    kind = np.int8 if target.has_int8_dot else np.int16
    pieces = []
    for first in range(0, panels.columns, panels.width):
        piece = matrix[:, first : first + panels.width]
        piece = np.pad(piece, ((0, 0), (0, -piece.shape[1] % panels.lanes))).astype(kind)
        parts = piece.reshape(-1, group, piece.shape[1]).transpose(0, 2, 1)
        pieces.append(np.ascontiguousarray(parts).reshape(-1))
    return np.concatenate(pieces).view(np.uint8)
