"""Closed forms: linear heads computed from one pass of sums over the features. ``kinds.py`` has their settings."""
