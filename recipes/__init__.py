"""How the models that ship were trained.

Run `python -m recipes.<model> --data FOLDER --out model_repo`.

A recipe reads a data set, trains, exports ONNX and writes one version folder per network.
Nothing in `engine` or `server` imports this package, and it imports neither of them.
"""
