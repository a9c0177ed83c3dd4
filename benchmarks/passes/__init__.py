"""What the passes are worth on the portable definitions, before any device has kernels."""
