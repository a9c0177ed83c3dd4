"""Reads model files into the IR.

The only part of the engine that imports onnx, and never trusts what it reads.
"""
