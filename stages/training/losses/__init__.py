"""Margin losses on one shared kernel: ``kinds.py`` and ``settings.py`` have their settings and load without torch."""
