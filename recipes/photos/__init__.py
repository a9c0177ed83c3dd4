"""The recipe of `photos`: a residual net on CIFAR-10."""
