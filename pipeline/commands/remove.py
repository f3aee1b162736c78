"""The command ``remove``."""

from __future__ import annotations

import json as json_module
from typing import Annotated

import typer

from cache.errors import ConfigError
from pipeline.bundle import Bundle
from pipeline.bundle.changes import publish, remove_images
from pipeline.commands.options import BundleFolder, Json, Publish, Wait
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
    filters: dict[str, list[str | None]] = {}
    for term in where or ():
        column, equals, value = term.partition("=")
        if not equals:
            raise ConfigError(f"--where takes COLUMN=VALUE, got {term!r}")
        filters.setdefault(column, []).append(value)
    opened = Bundle.open(bundle)
    number, count = remove_images(opened, keys or (), filters, wait=wait)
    if publish_now:
        publish(opened, wait=wait)
    line = {"bundle": str(bundle), "snapshot": number, "removed": count, "published": publish_now}
    state = "searched from now on" if publish_now else "`permafrost publish` has it searched"
    text = f"{bundle}: snapshot {number}, {counted_text(count, 'image')} removed; {state}"
    typer.echo(json_module.dumps(line) if json else stamped(text))
