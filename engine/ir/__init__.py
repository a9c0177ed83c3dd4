"""The intermediate representation: typed, immutable graphs in ONNX's words.

Knows element types and errors only: no operator's meaning, no file format, no device.
"""
