"""Kernels: each file one family of native code, written down as data that emits itself."""
