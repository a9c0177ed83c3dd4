"""Text-to-text generation: encoder-decoder models step by step, in static memory.

Tokens in, tokens out: tokenizers live outside of the engine.
"""
