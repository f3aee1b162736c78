"""Heads that learn what records are by several attributes at once: a network (``tasks.py``) and posteriors."""
