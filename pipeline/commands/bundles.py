"""The commands of a bundle: ``export`` writes it, ``encode`` uses it; ``add``, ``remove`` and ``publish`` change it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from cache.errors import ConfigError
from cache.storage import is_url
from pipeline.bundle import Bundle, changes, is_bundle
from pipeline.bundle.export import export_bundle
from pipeline.bundle.snapshots import read_snapshot
from pipeline.commands.options import (
    BestHead,
    BundleFolder,
    Device,
    Json,
    OneBackbone,
    Publish,
    Quiet,
    Wait,
    Workers,
    emit,
    images_there,
    where_values,
)
from pipeline.dataset import open_run
from pipeline.encoded_table import encode_folder
from pipeline.encoder import Encoder
from pipeline.progress import Display, counted_text, stamped
from pipeline.searcher import embedder_of
from pipeline.thresholds import kept_decisions
from pipeline.vectors import find_chosen, with_rows
from stages.analysis.thresholds import ENOUGH_CLASSES, class_shortage
from stages.datasets import FolderConfig, SourceConfig, TableConfig

if TYPE_CHECKING:
    from stages.extraction import Embedder


def export(
    source: Annotated[
        str, typer.Argument(metavar="RUN.TOML|BUNDLE", help="A run file or its address; with --format a bundle too.")
    ],
    output: Annotated[
        str, typer.Option("--output", "-o", help="A new or empty folder or address; with --format a file.")
    ],
    form: Annotated[
        Literal["export", "torchscript", "onnx"] | None,
        typer.Option("--format", help="One file from pixels to the embedding: .pt2, .pt or .onnx."),
    ] = None,
    head: BestHead = None,
    backbone: OneBackbone = None,
    everything: Annotated[bool, typer.Option("--all", help="Export every record, not only the gallery.")] = False,
    no_weights: Annotated[
        bool, typer.Option("--no-weights", help="Name the weights with their digests, and do not copy them.")
    ] = False,
    thumbnails: Annotated[bool, typer.Option("--thumbnails", help="Write a small picture of each image too.")] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write a head with its networks and gallery as one folder, or without the gallery as one file."""
    if form is not None:
        if everything or no_weights or thumbnails:
            raise ConfigError("--all, --no-weights and --thumbnails are of a bundle: a file of --format has no images")
        if is_url(output):
            raise ConfigError(f"{output} is in object storage: write the file of --format here, and copy it there")
        line, embedder = _described(source, head, backbone, quiet=quiet)
        from pipeline.bundle.graph_files import write_graph  # takes PyTorch

        cosine = write_graph(embedder, Path(output), form, line)
        size = Path(output).stat().st_size
        line = {"file": output, "format": form, **line, "cosine": round(cosine, 6), "bytes": size}
        text = f"{output}: {line['backbone']} {line['head']}, {size / 1e6:,.1f} MB, cosine to the store {cosine:.6f}"
        emit(json, text, line)
        return
    if is_bundle(source):
        raise ConfigError(f"{source} is a bundle already: export a run file, or one file of it with --format")
    run = open_run(source, quiet=quiet)
    vectors = find_chosen(run, head, backbone)
    run = with_rows(run, [vectors])
    decisions = kept_decisions(run, vectors)
    bundle = export_bundle(
        run, vectors, output, everything=everything, weights=not no_weights, thumbnails=thumbnails, decisions=decisions
    )
    if not bundle.thresholds:
        way = ""
        if run.records.has_labels:
            choose = f" `permafrost threshold {source}` chooses one: then export again."
            way = choose if class_shortage(run.records) is None else f" One takes {ENOUGH_CLASSES}."
        run.display.say(f"no threshold goes along: a search lists the nearest images, however unlike they are.{way}")
    size = sum(path.stat().st_size for path in bundle.path.rglob("*") if path.is_file())
    count = len(read_snapshot(bundle).rows)
    named = {"backbone": vectors.backbone, "head": vectors.head, "embeddings": bundle.embeddings}
    line = {"bundle": output, **named, "rows": count, "bytes": size}
    emit(json, f"{output}: {count:,} images, {vectors.backbone} {vectors.head}, {size / 1e6:,.1f} MB", line)


def _described(source: str, head: str | None, backbone: str | None, *, quiet: bool) -> tuple[dict[str, Any], Embedder]:
    """Which embeddings a bundle or a run has, in words, and what computes them."""
    if is_bundle(source):
        if head is not None or backbone is not None:
            raise ConfigError(f"{source} is a bundle, which has one head: leave --head and --backbone out")
        bundle = Bundle.open(source)
        line = {name: bundle.described[name] for name in ("backbone", "head")}
        return line | {"embeddings": bundle.embeddings, "dim": bundle.dim}, bundle.embedder()
    run = open_run(source, quiet=quiet)
    vectors = find_chosen(run, head, backbone)
    line = {"backbone": vectors.backbone, "head": vectors.head}
    line |= {"embeddings": vectors.store.fingerprint, "dim": vectors.store.dim}
    return line, embedder_of(run, vectors)


def encode(
    bundle: BundleFolder,
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="The images, in it and below it.", callback=images_there)
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The Parquet file to write.")],
    device: Device = "cpu",
    workers: Workers = None,
    max_failures: Annotated[
        float, typer.Option(min=0, max=1, help="Share of images that may fail before the exit status says so.")
    ] = 0.01,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write the vectors of a folder of images as a Parquet file; killed and started again, it goes on."""
    display = Display(quiet=quiet)
    opened = Bundle.open(bundle)
    display.say(f"loading {opened.described['backbone']}")
    encoder = Encoder(opened.embedder(device), workers=workers)
    with display.bar("encoding", "images") as update:
        written = encode_folder(encoder, opened.embeddings, folder, output, on_note=display.warn, on_progress=update)
    display.list_failed(written.failed, f"; the column error of {output} has them")
    failed = len(written.failed)
    line = {"output": str(output), "embeddings": opened.embeddings, **written._asdict(), "failed": failed}
    emit(json, f"{output}: {written.images:,} images, {written.computed:,} encoded now, {failed:,} failed", line)
    if failed > max_failures * written.images:
        display.warn(f"{failed:,} of {written.images:,} images failed: more than --max-failures allows")
        raise typer.Exit(1)


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
        text = f"snapshot {done.snapshot}, {added}; {_state(published)}"
    emit(json, stamped(f"{bundle}: {text}"), line)
    if done.refused:
        raise typer.Exit(1)


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
    text = f"{bundle}: snapshot {number}, {counted_text(count, 'image')} removed; {_state(publish_now)}"
    emit(json, stamped(text), line)


def _state(published: bool) -> str:
    return "searched from now on" if published else "`permafrost publish` has it searched"


def publish(
    bundle: BundleFolder,
    prune: Annotated[bool, typer.Option("--prune", help="Delete the older snapshots afterwards.")] = False,
    wait: Wait = False,
    json: Json = False,
) -> None:
    """Have the newest snapshot of a bundle searched, by one rename, also while it is served."""
    number = changes.publish(Bundle.open(bundle), prune=prune, wait=wait)
    emit(json, stamped(f"{bundle}: snapshot {number} is searched"), {"bundle": bundle, "snapshot": number})
