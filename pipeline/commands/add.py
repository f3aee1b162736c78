"""``permafrost add``: write a new snapshot of a bundle with more images; `publish` has it searched."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.bundle import Bundle, changes
from pipeline.commands.options import BundleFolder, Device, Json, Publish, Quiet, Wait, Workers, emit, images_there
from pipeline.encoder import Encoder
from pipeline.progress import Display, counted_text, stamped
from stages.datasets import FolderConfig, SourceConfig, TableConfig


def add(
    bundle: BundleFolder,
    source: Annotated[
        Path,
        typer.Argument(metavar="FOLDER|TABLE", help="A folder of images, or a table of them.", callback=images_there),
    ],
    label: Annotated[
        list[str] | None, typer.Option(help="Of a table: the column of the label, or several, joined by /.")
    ] = None,
    attribute: Annotated[list[str] | None, typer.Option(help="Of a table: a column that is an attribute.")] = None,
    image: Annotated[str, typer.Option(help="Of a table: the column with the path of the image.")] = "path",
    publish_now: Publish = False,
    device: Device = "cpu",
    workers: Workers = None,
    max_failures: Annotated[
        float, typer.Option(min=0, max=1, help="Share of images that may fail; where more do, none is added.")
    ] = 0.01,
    wait: Wait = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write a new snapshot of a bundle with more images; `publish` puts it in the place of the old one."""
    display = Display(quiet=quiet)
    opened = Bundle.open(bundle)

    def load() -> Encoder:
        display.say(f"loading {opened.described['backbone']}")
        return Encoder(opened.embedder(device), workers=workers)

    config: SourceConfig = (
        FolderConfig(path=str(source))
        if source.is_dir()
        else TableConfig(path=str(source), image=image, label=tuple(label or ()), attributes=tuple(attribute or ()))
    )
    with display.bar("encoding", "images") as update:
        done = changes.add_images(
            opened, config, encoder=load, max_failures=max_failures, wait=wait, on_progress=update
        )
    display.list_failed(done.failed)
    published = publish_now and not done.refused
    if published:
        changes.publish(opened, wait=wait)
    counts = {"added": done.added, "present": done.present, "failed": len(done.failed)}
    line = {"bundle": bundle, "snapshot": done.snapshot, **counts, "published": published}
    were = "was there" if done.present == 1 else "were there"
    newest = f"snapshot {done.snapshot} {'is searched from now on' if published else 'stays the newest'}"
    if done.refused:
        failed = counted_text(len(done.failed), "image")
        text = f"none was added, since {failed} failed, more than --max-failures allows; {newest}"
    elif not done.added:
        text = f"nothing to add, {counted_text(done.present, 'image')} {were}; {newest}"
    else:
        added = f"{counted_text(done.added, 'image')} added, {done.present:,} {were}"
        text = f"snapshot {done.snapshot}, {added}; {bundle_state(published)}"
    emit(json, stamped(f"{bundle}: {text}"), line)
    if done.refused:
        raise typer.Exit(1)


def bundle_state(published: bool) -> str:
    """What becomes of the new snapshot, in words."""
    return "searched from now on" if published else "`permafrost publish` has it searched"
