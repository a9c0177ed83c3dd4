"""Names of an encoder-decoder's inputs and outputs, as Hugging Face Optimum writes them, and as the
engine's own graphs call the same things.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

PAST: Final = "past_key_values"
PRESENT: Final = "present"
OWN, CROSS = "decoder", "encoder"  # whose keys and values: of earlier tokens, of the source
PARTS: Final = ("key", "value")
PATTERN: Final = re.compile(
    rf"({re.escape(PAST)}|{PRESENT})\.(\d{{1,4}})\.({OWN}|{CROSS})\.({'|'.join(PARTS)})"
)

TOKENS = "input_ids"
WHOLE_TOKENS = "decoder_input_ids"  # of a file that holds encoder and decoder
ENCODED = "encoder_hidden_states"
SOURCE_MASK = "encoder_attention_mask"
PLAIN_MASK = "attention_mask"
TARGET_MASK = "decoder_attention_mask"
CACHE_SWITCH = "use_cache_branch"
CACHE_POSITION = "cache_position"
POSITION_IDS = "position_ids"
LOGITS = "logits"


@dataclass(frozen=True, order=True)
class CacheName:
    """One cache: keys or values, of one layer's own tokens or of the source."""

    layer: int
    side: str
    part: str

    @property
    def past(self) -> str:
        """What the file calls it on its way in."""
        return f"{PAST}.{self.layer}.{self.side}.{self.part}"

    @property
    def present(self) -> str:
        """What the file calls it on its way out."""
        return f"{PRESENT}.{self.layer}.{self.side}.{self.part}"

    @property
    def slot_in(self) -> str:
        """What the step graph calls it on its way in."""
        return f"{'past' if self.side == OWN else 'cross'}.{self.layer}.{self.part}"

    @property
    def slot_out(self) -> str:
        """What the step graph, or the graph that computes it from the source, gives it as."""
        return f"{'present' if self.side == OWN else 'cross'}.{self.layer}.{self.part}"


def cache_name(name: str) -> CacheName | None:
    """Return the cache that an input or output is, or None."""
    found = PATTERN.fullmatch(name)
    return CacheName(int(found[2]), found[3], found[4]) if found else None


def caches(names: Iterable[str], side: str) -> list[CacheName]:
    """Return the caches among names, in order."""
    found = (cache_name(name) for name in names)
    return sorted(each for each in found if each is not None and each.side == side)
