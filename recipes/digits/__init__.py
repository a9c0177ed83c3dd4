"""The recipe of `digits`: a fully connected net (version 1) and a convolutional one (2)."""
