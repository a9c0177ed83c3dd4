"""Decisions about a whole optimised graph that devices share.

Generates no code and runs nothing.
"""
