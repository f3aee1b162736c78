"""Sweeps: many recipes, each judged by training classes that it did not learn; small heads are trained in batches."""
