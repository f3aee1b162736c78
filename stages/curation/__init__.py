"""From the training images of one dataset or several to a compact, clean training table."""

from stages.curation.curate import REASONS, CurateConfig, Curated, Dropped, curate

__all__ = ["REASONS", "CurateConfig", "Curated", "Dropped", "curate"]
