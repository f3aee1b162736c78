"""What a path names, opened to be served: a bundle, whose snapshots are followed, or a run file."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from pipeline.bundle import Bundle, is_bundle, read_snapshot
from pipeline.bundle.snapshots import CURRENT
from pipeline.dataset import Run, open_run
from pipeline.score_rows import RAW, ScoreRow
from pipeline.searcher import Searcher, searchers_of_run
from pipeline.service.gallery import Gallery, ServedHead
from pipeline.service.snapshots import Snapshots
from pipeline.thresholds import kept_thresholds
from pipeline.vectors import Vectors, choose_vectors, find_vectors, with_rows
from stages.extraction import Embedder
from stages.retrieval.query_values import scored_numbers


def open_snapshots(
    path: Path,
    *,
    device: str = "cpu",
    everything: bool = False,
    quiet: bool = False,
    on_change: Callable[[str], None] = lambda outcome: None,
) -> Snapshots:
    """What to serve of the bundle or the run file at ``path``. Raises what opening it raises."""
    if path.is_dir():
        return Snapshots(_BundleOpener(path, device), path / CURRENT, on_change=on_change)
    gallery = gallery_of_run(open_run(path, quiet=quiet), device=device, everything=everything)
    return Snapshots(lambda: gallery, on_change=on_change)


class _BundleOpener:
    """Opens the current snapshot of a bundle; the networks are loaded once, and again for another bundle."""

    def __init__(self, path: Path, device: str) -> None:
        self._path, self._device = path, device
        self._loaded: tuple[Bundle, Embedder] | None = None

    def __call__(self) -> Gallery:
        bundle = Bundle.open(self._path)
        if self._loaded is None or self._loaded[0].described != bundle.described:
            self._loaded = bundle, bundle.embedder(self._device)
        _, embedder = self._loaded
        snapshot = read_snapshot(bundle)
        searcher = Searcher.of_snapshot(snapshot, embedder, bundle.thresholds)
        head = ServedHead(bundle.described["backbone"], bundle.described["head"], searcher)
        return Gallery(f"{bundle.embeddings[:8]}-{snapshot.number}", (head,), bundle.thumbnail)


def gallery_of_run(run: Run, *, device: str = "cpu", everything: bool = False) -> Gallery:
    """The raw feature and every head of ``run``, best first by the scores of the run that are of these embeddings."""
    every = find_vectors(run)
    run = with_rows(run, every)
    searchers = searchers_of_run(run, every, everything=everything, device=device)
    best = choose_vectors(run, every, None)
    scores = _scores(run)
    heads = []
    for vectors, searcher in zip(every, searchers, strict=True):
        row = scores.get((vectors.backbone, vectors.head, scored_numbers(vectors.store, run.records)))
        heads.append((row, vectors is not best, vectors.head == RAW, ServedHead(vectors.backbone, vectors.head, searcher, _score_text(row))))
    heads.sort(key=lambda entry: (-entry[0].value if entry[0] else 0.0, *entry[1:3]))
    return Gallery(heads[0][3].searcher.name, tuple(entry[3] for entry in heads))
