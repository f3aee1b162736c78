"""Bundles: folders with all that a search takes, written from a run, opened anywhere, changed by snapshots."""

from pipeline.bundle.layout import Bundle, is_bundle
from pipeline.bundle.snapshots import Snapshot, current_number, read_snapshot

__all__ = ["Bundle", "Snapshot", "current_number", "is_bundle", "read_snapshot"]
