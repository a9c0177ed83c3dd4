"""The recipe of `objects`: a residual net on Tiny ImageNet, with an embedding for similarity."""
