"""The networks that are measured: their definitions in torch and their export to ONNX.

Only `table` works without torch; everything else runs in the exporter's process.
"""
