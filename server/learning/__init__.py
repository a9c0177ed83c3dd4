"""Classifiers from a few labelled pictures: linear ones, on the features of a model that is loaded.

`examples` says what can be learned from, `fitting` fits (the only part that knows scikit-learn),
`report` tells how well it went, `version_folder` writes the version, `teacher` does one after the
other.
"""
