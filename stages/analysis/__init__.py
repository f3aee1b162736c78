"""How far to trust a score: comparisons, bounds, gallery and class size, open set, label health; without torch."""

from stages.analysis.bounds import Bounds, attribute_bounds, metric_bounds, score_bounds
from stages.analysis.comparison import Change, Changes, Difference, Moved, changes, paired_difference, t_interval
from stages.analysis.embedding_health import Hubs, Spread, Suspect, Vote, hubs, spread, suspects, votes
from stages.analysis.open_set import Comparisons, Decisions, Rate, Rates, comparisons, decide
from stages.analysis.sizes import GroupScore, SizeCurve, SizedScore, by_class_size, gallery_curve
from stages.analysis.thresholds import threshold_at

__all__ = [
    "Bounds", "Change", "Changes", "Comparisons", "Decisions", "Difference", "GroupScore", "Hubs", "Moved", "Rate",
    "Rates", "SizeCurve", "SizedScore", "Spread", "Suspect", "Vote", "attribute_bounds", "by_class_size", "changes",
    "comparisons", "decide", "gallery_curve", "hubs", "metric_bounds", "paired_difference", "score_bounds", "spread",
    "suspects", "t_interval", "threshold_at", "votes",
]  # fmt: skip
