"""The CPU compiler beside ONNX Runtime: `python -m benchmarks.engine`, or `make bench-engine`."""
