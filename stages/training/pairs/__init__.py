"""Losses on pairs and proxies, and miners: ``kinds.py`` has their settings, ``rows.py`` how they are computed."""
