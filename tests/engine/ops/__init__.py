"""Operators against ONNX Runtime."""
