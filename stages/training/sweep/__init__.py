"""Sweeps: many recipes, each judged by training classes that it did not learn; small heads are trained in batches."""

from stages.training.sweep.search_space import SweepConfig
from stages.training.sweep.trials import CrossValidation, Trial, cross_validation, run_trials

__all__ = ["CrossValidation", "SweepConfig", "Trial", "cross_validation", "run_trials"]
