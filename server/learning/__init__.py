"""Classifiers from a few pictures: a linear head on the features of a model that is there."""
