"""Everything that searches know between two steps, in static arrays.

Numpy and native code work on the same arrays. Three kinds of numbers name things:

- *batch rows* are what a step feeds, packed without gaps; a search has neighbouring ones;
- *cache rows* hold keys, values and tokens, and stay with a beam of a search for its life;
- a *record* holds the settings of a search; its number is that of its first cache row.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from engine.generation.slots import StepSlots

# Columns of `SearchState.numbers`.
BEAMS: Final = 0
KEEP: Final = 1  # candidates that are looked at in a step
LENGTH: Final = 2  # tokens generated so far
MOST: Final = 3  # tokens at most
LEAST: Final = 4  # no end before so many
EARLY: Final = 5  # 1: done as soon as there are as many hypotheses as beams
HOPED: Final = 6  # the length by which running beams are judged; 0 for the present one
FIRST: Final = 7  # the token that must come first, or -1
LAST: Final = 8  # the token that must come last, or -1
ENDS: Final = 9  # address of the tokens that end a sequence, int32
END_COUNT: Final = 10
BANS: Final = 11  # address of the tokens that never come, int32
BAN_COUNT: Final = 12
SAMPLES: Final = 13  # 1: the token is drawn, not here
DONE: Final = 14
TOKEN: Final = 15  # what the last step chose; of the best beam
COLUMNS: Final = 16

# Columns of `SearchState.edits`: tokens of a batch row, int32, to penalize and to ban.
PENALIZED, PENALIZED_COUNT, BANNED, BANNED_COUNT = range(4)

NOT_YET: Final = np.float32(-1e9)  # score of a beam or hypothesis that does not exist yet
LEAST_SCORE: Final = np.float32(-5e8)  # what is below descends from one of those
MOST_CANDIDATES: Final = 128


class SearchState:
    """The arrays; R rows, T positions.

    Attributes:
        logits: What the search looks at and edits: those of the slots if they are float32, else a
            copy. (R, V) by batch row
        owner: The record of a batch row's search; the row is its search's first if its cache row
            has the same number. (R,) by batch row
        edits: Addresses and counts of tokens to penalize and to ban. (R, 4) by batch row
        numbers: Settings and progress, columns above. (R, 16) by record.
        penalty: What scores of penalized tokens are multiplied with, or divided by. (R,) by record
        norm: Length to the power of the length penalty. (R, T + 1) by record and length
        peak, log_sum: Of the logits: largest, and log of the sum of exp(logit - largest). (R,) by
            batch row
        token, value: The best next tokens, best first, and their log-probabilities; -1 and minus
            infinity where there are no more. (R, 128) by batch row
        score: Sum of a beam's log-probabilities. (R,) by cache row
        token_at, value_at: Token of each position and its log-probability. (R, T) by cache row
        moved: Room for histories that change places. (R, T)
        positions, vocabulary: T and V, for native code. (1,)
        pool_score, pool_length, pool_token, pool_value, pool_history: Hypotheses, as many as a
            search has cache rows: score, number of tokens (0: none yet), last token, its
            log-probability, and where the tokens before it are. By cache row
    """

    def __init__(self, slots: StepSlots) -> None:
        rows, positions = slots.history.shape
        self.slots = slots
        is_float32 = slots.logits.dtype == np.float32
        self.logits = slots.logits if is_float32 else slots.logits.astype(np.float32)
        self.owner = np.zeros(rows, np.int64)
        self.edits = np.zeros((rows, 4), np.int64)
        self.numbers = np.zeros((rows, COLUMNS), np.int64)
        self.penalty = np.ones(rows, np.float32)
        self.norm = np.ones((rows, positions + 1), np.float32)
        self.peak = np.zeros(rows, np.float32)
        self.log_sum = np.zeros(rows, np.float32)
        self.token = np.zeros((rows, MOST_CANDIDATES), np.int32)
        self.value = np.zeros((rows, MOST_CANDIDATES), np.float32)
        self.score = np.zeros(rows, np.float32)
        self.token_at = np.zeros((rows, positions), np.int32)
        self.value_at = np.zeros((rows, positions), np.float32)
        self.moved = np.zeros((rows, positions), np.int32)
        self.positions = np.array([positions], np.int64)
        self.vocabulary = np.array([slots.vocabulary_size], np.int64)
        self.pool_score = np.zeros(rows, np.float32)
        self.pool_length = np.zeros(rows, np.int32)
        self.pool_token = np.zeros(rows, np.int32)
        self.pool_value = np.zeros(rows, np.float32)
        self.pool_history = np.zeros((rows, positions), np.int32)

    def memory_bytes(self) -> int:
        """Return the size of the arrays."""
        arrays = (value for value in vars(self).values() if isinstance(value, np.ndarray))
        return sum(array.nbytes for array in arrays)

    def take_logits(self, rows: int) -> None:
        """Widen the logits of the first batch rows, where a model gives others than float32."""
        if self.logits is not self.slots.logits:
            self.logits[:rows] = self.slots.logits[:rows]

    def begin(self, rows: NDArray[np.int64], start: int) -> None:
        """Set the beams of a new search: all at the start token, the first alone alive."""
        self.slots.history[rows, 0] = rows
        self.token_at[rows, 0] = start
        self.value_at[rows, 0] = 0.0
        self.score[rows] = NOT_YET
        self.score[rows[0]] = 0.0
        self.pool_score[rows] = NOT_YET
        self.pool_length[rows] = 0

    def tokens_of(self, history: NDArray[np.int32], length: int) -> NDArray[np.int32]:
        """Return the tokens at positions 1 to `length` along a history."""
        return self.token_at[history[1 : length + 1], np.arange(1, length + 1)]

    def values_of(self, history: NDArray[np.int32], length: int) -> NDArray[np.float32]:
        """Return the log-probabilities at positions 1 to `length` along a history."""
        return self.value_at[history[1 : length + 1], np.arange(1, length + 1)]
