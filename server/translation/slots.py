"""Opens a model's static slots, and takes the first steps in them. Blocking."""

from __future__ import annotations

from dataclasses import replace

from server.errors import LoadFailed
from server.execution import Decoder, Search, Seq2Seq, SlotSizes
from server.model_config import TranslationConfig

WARM_TOKENS = 8  # of the sentences that warm a decoder up
WARM_STEPS = 2
LANE_ROWS = 16  # a lane of less has too little to do at a time


def lanes_of(config: TranslationConfig, beams: int) -> int:
    """Return how many lanes share the slots; each must hold a search of so many beams."""
    wanted = config.lanes or (2 if config.rows >= LANE_ROWS * 2 else 1)
    return max(1, min(wanted, config.rows // beams, config.sources))


def slot_sizes(config: TranslationConfig, lanes: int) -> SlotSizes:
    """Return the share of what `[translation]` asks for that one of so many lanes has."""
    return SlotSizes(
        config.rows // lanes, config.sources // lanes, config.source_tokens, config.target_tokens
    )


def open_warm(seq2seq: Seq2Seq, sizes: SlotSizes, defaults: Search) -> Decoder:
    """Open slots and run a few steps in them, with one search and with as many as there can be.

    The decoder's own sizes may be smaller: as long as the model knows positions.

    Raises:
        LoadFailed: a search as the model's settings have it does not fit the slots.
    """
    if defaults.beams > sizes.rows:
        reason = (
            f"its settings ask for {defaults.beams} beams, more than translation.rows = "
            f"{sizes.rows}; raise it, or set generation.beams"
        )
        raise LoadFailed(f"the model cannot be served: {reason}", reason=reason)
    decoder = seq2seq.open(sizes)
    most = min(decoder.sizes.sources, decoder.sizes.rows // defaults.beams)
    for searches in dict.fromkeys((1, most)):
        _warm(decoder, fitting(defaults, decoder.sizes), searches)
    return decoder


def fitting(search: Search, sizes: SlotSizes) -> Search:
    """Return a search that is no longer than the slots are."""
    longest = sizes.target_tokens - 1  # the start takes a place
    if search.max_new_tokens <= longest:
        return search
    return replace(
        search, max_new_tokens=longest, min_new_tokens=min(search.min_new_tokens, longest)
    )


def _warm(decoder: Decoder, defaults: Search, searches: int) -> None:
    tokens = list(defaults.end[:1]) * min(WARM_TOKENS, decoder.sizes.source_tokens)
    sources = decoder.add_sources([tokens] * searches)
    handles = [decoder.start(source, defaults) for source in sources]
    for _ in range(WARM_STEPS):
        decoder.step()
    for handle, source in zip(handles, sources, strict=True):
        decoder.release(handle)
        decoder.release_source(source)
