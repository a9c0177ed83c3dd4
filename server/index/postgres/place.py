"""Which table a space is, and how pgvector compares its vectors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from psycopg import sql

from server.index.contract import Metric
from server.index.postgres import schema

LARGEST_DIM = 16_000  # of pgvector's type vector
LARGEST_INDEXED_DIM = 2_000  # of its index over float32 ...
LARGEST_HALF_DIM = 4_000  # ... and of the one over float16

OPERATOR = {"cosine": "<=>", "dot": "<#>", "l2": "<->"}
CLASS = {"cosine": "cosine_ops", "dot": "ip_ops", "l2": "l2_ops"}


@dataclass(frozen=True, slots=True)
class Place:
    """A space, as the database knows it."""

    collection: int
    number: int
    key: str
    dim: int
    metric: Metric

    @property
    def vectors(self) -> sql.Identifier:
        """Name the table of its vectors."""
        return schema.vectors_table(self.number)

    @property
    def items(self) -> sql.Identifier:
        """Name the table of the items."""
        return schema.items_table(self.collection)

    @property
    def index(self) -> sql.Identifier:
        """Name its index, which may not be there."""
        return sql.Identifier(self.index_name)

    @property
    def index_name(self) -> str:
        """Name its index as a string."""
        return f"vectors_{self.number}_hnsw"

    @property
    def operator(self) -> sql.SQL:
        """Return what measures a distance."""
        return sql.SQL(OPERATOR[self.metric])

    @property
    def halved(self) -> bool:
        """Whether the index is over float16, as the vectors are too long for another."""
        return self.dim > LARGEST_INDEXED_DIM

    @property
    def can_be_indexed(self) -> bool:
        """Whether pgvector has an index for vectors of this length."""
        return self.dim <= LARGEST_HALF_DIM

    def indexed(self, value: sql.Composable) -> sql.Composable:
        """Return a vector as the index holds it."""
        if not self.halved:
            return value
        return sql.SQL("({})::halfvec({})").format(value, sql.Literal(self.dim))

    @property
    def operator_class(self) -> sql.SQL:
        """Return how the index is to compare."""
        kind = "halfvec" if self.halved else "vector"
        return sql.SQL(f"{kind}_{CLASS[self.metric]}")

    def scores(self, distances: NDArray[np.float64]) -> NDArray[np.float64]:
        """Turn distances into scores, of which the larger is nearer."""
        # `<#>` is the negative dot product, so two of three are but turned round.
        return 1.0 - distances if self.metric == "cosine" else -distances
