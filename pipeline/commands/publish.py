"""The command ``publish``."""

from __future__ import annotations

import json as json_module
from typing import Annotated

import typer

from pipeline.bundle import Bundle
from pipeline.bundle.changes import publish as publish_newest
from pipeline.commands.options import BundleFolder, Json, Wait
from pipeline.progress import stamped


def publish(
    bundle: BundleFolder,
    prune: Annotated[bool, typer.Option("--prune", help="Delete the older snapshots afterwards.")] = False,
    wait: Wait = False,
    json: Json = False,
) -> None:
    """Have the newest snapshot of a bundle searched, by one rename, also while it is served."""
    number = publish_newest(Bundle.open(bundle), prune=prune, wait=wait)
    line = {"bundle": str(bundle), "snapshot": number}
    typer.echo(json_module.dumps(line) if json else stamped(f"{bundle}: snapshot {number} is searched"))
