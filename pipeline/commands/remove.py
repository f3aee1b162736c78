"""``permafrost remove``: write a new snapshot of a bundle without some images; `publish` has it searched."""

from __future__ import annotations

from typing import Annotated

import typer

from cache.errors import ConfigError
from pipeline.bundle import Bundle, changes
from pipeline.commands.add import bundle_state
from pipeline.commands.options import BundleFolder, Json, Publish, Wait, emit, where_values
from pipeline.progress import counted_text, stamped


def remove(
    bundle: BundleFolder,
    keys: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY...]", help="Keys of images, or paths as `search` prints them.")
    ] = None,
    where: Annotated[
        list[str] | None,
        typer.Option(help="COLUMN=VALUE: images with this label, domain or attribute; several must all hold."),
    ] = None,
    publish_now: Publish = False,
    wait: Wait = False,
    json: Json = False,
) -> None:
    """Write a new snapshot of a bundle without some images; `publish` puts it in the place of the old one."""
    if bool(keys) == bool(where):
        raise ConfigError("name the images to remove: by keys, or by --where COLUMN=VALUE, and not by both")
    filters = where_values(where)
    if unset := next((column for column, values in filters.items() if None in values), None):
        raise ConfigError(f"--where {unset}= names no value: images are removed by a value that they have")
    opened = Bundle.open(bundle)
    number, count = changes.remove_images(opened, keys or (), filters, wait=wait)
    if publish_now:
        changes.publish(opened, wait=wait)
    line = {"bundle": bundle, "snapshot": number, "removed": count, "published": publish_now}
    text = f"{bundle}: snapshot {number}, {counted_text(count, 'image')} removed; {bundle_state(publish_now)}"
    emit(json, stamped(text), line)
