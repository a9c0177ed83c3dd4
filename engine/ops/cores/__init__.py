"""Numerical cores of the structured operators: pure functions over an array namespace.

Each function takes `xp` (numpy or cupy) and plain arrays and attributes; it knows no graph, no
operator version and no device. Operator blocks in `engine.ops` translate ONNX's words into calls.
"""
