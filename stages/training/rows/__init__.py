"""The rows that a head learns from: where they lie, which are held out, and which make a batch."""

from stages.training.rows.fusion import FusedFeatures
from stages.training.rows.labelled_rows import (
    InMemory,
    LabelledRows,
    blocks_of,
    gather,
    in_training_order,
    rows_digest,
    source_of,
)

__all__ = [
    "FusedFeatures",
    "InMemory",
    "LabelledRows",
    "blocks_of",
    "gather",
    "in_training_order",
    "rows_digest",
    "source_of",
]
