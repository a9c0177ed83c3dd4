"""What several benchmarks share: load generation, server processes, machine facts, result files."""
