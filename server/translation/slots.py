"""Opens a model's static slots, and takes the first steps in them. Blocking."""

from __future__ import annotations

from server.errors import LoadFailed
from server.execution import Decoder, Search, Seq2Seq, SlotSizes
from server.model_config import TranslationConfig

WARM_TOKENS = 8  # of the sentences that warm a decoder up
WARM_STEPS = 2


def slot_sizes(config: TranslationConfig) -> SlotSizes:
    """Return what `[translation]` asks for."""
    return SlotSizes(config.rows, config.sources, config.source_tokens, config.target_tokens)


def open_warm(seq2seq: Seq2Seq, sizes: SlotSizes, defaults: Search) -> Decoder:
    """Open slots and run a few steps in them, with one search and with as many as there can be.

    Raises:
        LoadFailed: a search as the model's settings have it does not fit the slots.
    """
    if defaults.beams > sizes.rows or defaults.max_new_tokens >= sizes.target_tokens:
        reason = (
            f"its settings ask for {defaults.beams} beams and {defaults.max_new_tokens} tokens; "
            f"translation.rows = {sizes.rows} and translation.target_tokens = "
            f"{sizes.target_tokens} leave room for {sizes.rows} and {sizes.target_tokens - 1}"
        )
        raise LoadFailed(f"the model cannot be served: {reason}", reason=reason)
    decoder = seq2seq.open(sizes)
    most = min(sizes.sources, sizes.rows // defaults.beams)
    for searches in dict.fromkeys((1, most)):
        _warm(decoder, defaults, searches)
    return decoder


def _warm(decoder: Decoder, defaults: Search, searches: int) -> None:
    tokens = list(defaults.end[:1]) * min(WARM_TOKENS, decoder.sizes.source_tokens)
    sources = decoder.add_sources([tokens] * searches)
    handles = [decoder.start(source, defaults) for source in sources]
    for _ in range(WARM_STEPS):
        decoder.step()
    for handle, source in zip(handles, sources, strict=True):
        decoder.release(handle)
        decoder.release_source(source)
