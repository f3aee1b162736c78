"""Margin losses on one shared kernel: ``kinds.py`` has their settings and loads without torch."""
