"""From the training images of one dataset or several to a compact, clean training table."""

from stages.curation.config import CurateConfig
from stages.curation.curate import REASONS, Curated, Dropped, curate

__all__ = ["REASONS", "CurateConfig", "Curated", "Dropped", "curate"]
