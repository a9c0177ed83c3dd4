"""The reference device: portable definitions over numpy, node by node.

Slow, and right: the oracle.
"""
