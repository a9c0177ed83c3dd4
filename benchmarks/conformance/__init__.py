"""The backend suite of the installed `onnx` package, on our engine and on two others."""
