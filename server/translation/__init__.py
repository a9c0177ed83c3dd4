"""Tokens in, tokens out, for many requests at a time: the decode loop and what stands before it.

A deployment's `Sentences` looks a sentence up in its cache, joins it to an identical one that is
under way, or hands it to the `DecodeLoop`: a thread that moves all running sentences on together,
step by step. Who joins and who leaves between steps is decided by `server.batching.steps`. Nothing
here knows HTTP; texts meet it only where documents are cut into sentences.
"""
