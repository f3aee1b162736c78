"""Trained heads and the steps before their maps: ``kinds.py`` has their settings, ``networks.py`` what they build."""
