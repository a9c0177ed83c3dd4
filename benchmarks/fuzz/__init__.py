"""Mutated model files against the engine: loading, and running what loads."""
