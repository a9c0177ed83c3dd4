"""From nodes to steps of native code: one rule per operator, in files by family."""
