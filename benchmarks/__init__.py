"""Benchmarks: each a script that anyone can rerun, with its results in `benchmarks/results/`."""
