"""The device called "cuda": GPUs through CuPy.

The only part that may use cupy, and only by name.
"""
