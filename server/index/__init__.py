"""Vectors that can be searched, and the items that they belong to.

Knows nothing of models, pictures or HTTP: vectors, metadata and opaque bytes go in, hits come out.
Two stores stand behind one contract (`contract.py`): a folder of this machine, and PostgreSQL.
"""
