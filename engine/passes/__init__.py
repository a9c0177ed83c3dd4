"""Rewrites of typed graphs, each a pure function from graph to graph.

Knows no device and no file format.
"""
