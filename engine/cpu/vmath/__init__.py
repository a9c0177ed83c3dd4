"""Functions of float32 vectors of any width, written as LLVM code.

Every function takes a `Builder` and a register and returns a register of the same type. Accuracy
over all of float32, denormals, infinities and NaN included, is stated at each and held by
`tests/engine/cpu/test_vmath.py`. One number and a vector give the same bits, whatever the width.
Polynomials were fitted for this file (minimax in relative error, coefficients rounded one by one).
"""

from engine.cpu.vmath.error_function import erf, gelu
from engine.cpu.vmath.exponential import coarse_sigmoid, exp, expm1, sigmoid, tanh
from engine.cpu.vmath.libm import call_libm
from engine.cpu.vmath.logarithm import log, log1p
from engine.cpu.vmath.parts import maximum, minimum
from engine.cpu.vmath.trigonometry import cos, sin

__all__ = [
    "call_libm",
    "coarse_sigmoid",
    "cos",
    "erf",
    "exp",
    "expm1",
    "gelu",
    "log",
    "log1p",
    "maximum",
    "minimum",
    "sigmoid",
    "sin",
    "tanh",
]
