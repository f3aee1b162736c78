"""``permafrost publish``: have the newest snapshot of a bundle searched, by one rename, also while it is served."""

from __future__ import annotations

from typing import Annotated

import typer

from pipeline.bundle import Bundle, changes
from pipeline.commands.options import BundleFolder, Json, Wait, emit
from pipeline.progress import stamped


def publish(
    bundle: BundleFolder,
    prune: Annotated[bool, typer.Option("--prune", help="Delete the older snapshots afterwards.")] = False,
    wait: Wait = False,
    json: Json = False,
) -> None:
    """Have the newest snapshot of a bundle searched, by one rename, also while it is served."""
    number = changes.publish(Bundle.open(bundle), prune=prune, wait=wait)
    emit(json, stamped(f"{bundle}: snapshot {number} is searched"), {"bundle": bundle, "snapshot": number})
