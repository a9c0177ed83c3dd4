"""Runs programs of native steps: a pool of workers, and the native loop that walks the steps."""
