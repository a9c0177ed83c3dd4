"""Accuracy on real pictures, beside ONNX Runtime."""
