"""``permafrost export``: write a head with its networks and gallery as one folder that opens on another machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from cache.errors import ConfigError
from cache.storage import is_url
from pipeline.bundle import Bundle, is_bundle
from pipeline.bundle.export import export_bundle
from pipeline.bundle.snapshots import read_snapshot
from pipeline.commands.compact import size_of
from pipeline.commands.options import BestHead, Json, OneBackbone, Quiet, emit
from pipeline.dataset import open_run
from pipeline.searcher import embedder_of
from pipeline.thresholds import kept_decisions
from pipeline.vectors import find_chosen, with_rows
from stages.analysis.thresholds import ENOUGH_CLASSES, class_shortage

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
    size = size_of(bundle.path)
    count = len(read_snapshot(bundle).rows)
    run.say_gallery(count)
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
