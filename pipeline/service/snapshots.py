"""What is served of a path, and the watcher that puts a newer snapshot of a bundle in the place of the old one.

A request keeps the snapshot that it began with to its end. A snapshot that cannot be opened (damaged, half written,
deleted) is refused: the old one serves on, and is tried again later.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from cache.errors import PermafrostError
from cache.storage import is_url
from pipeline.bundle import Bundle, current_number, is_bundle, read_snapshot
from pipeline.bundle.snapshots import CURRENT
from pipeline.dataset import Run, open_run
from pipeline.scores import stored_rows
from pipeline.searcher import Searcher
from pipeline.service.gallery import Gallery, ServedHead
from pipeline.thresholds import kept_decisions, thresholds_of
from pipeline.vectors import choose_vectors, find_vectors, with_rows
from stages.extraction import Backbone, Embedder
from stages.extraction.backbones.open_clip import OpenClipText
from stages.retrieval.query_values import scored_numbers

_NEAR, _FAR = 1.0, 5.0  # seconds between two looks at a folder, and at an address
_FIRST_RETRY, _LAST_RETRY = 1.0, 30.0  # seconds until a refused snapshot is tried again, doubled each time


class Snapshots:
    """Serves ``current``, and what ``open_gallery`` opens when ``version``, asked every some ``seconds``, is another.

    ``on_change`` is called with ``opened`` or ``refused`` then. Raises what ``open_gallery`` raises for the first one.
    """

    def __init__(
        self,
        open_gallery: Callable[[], Gallery],
        version: Callable[[], object] | None = None,
        *,
        on_change: Callable[[str], object],
        seconds: float = 1.0,
    ) -> None:
        self._open, self._ask, self._on_change, self._seconds = open_gallery, version, on_change, seconds
        self._seen = self._version()
        self.current = open_gallery()
        self.refused: str | None = None  # why the snapshot that the file names is not served; None where it is
        self._retry_at, self._retry_after = 0.0, _FIRST_RETRY
        self._closed = threading.Event()
        if version is not None:
            threading.Thread(target=self._watch, daemon=True).start()

    def close(self) -> None:
        """Watch no longer."""
        self._closed.set()

    def look(self) -> None:
        """Look once, and put another snapshot in place where there is one."""
        version = self._version()
        if version == self._seen and (self.refused is None or time.monotonic() < self._retry_at):
            return
        if version != self._seen:
            self._retry_after = _FIRST_RETRY
        try:
            opened = self._open()
        except (PermafrostError, OSError, ValueError, KeyError) as error:
            self.refused = f"{type(error).__name__}: {error}"
            self._retry_at = time.monotonic() + self._retry_after
            self._retry_after = min(2 * self._retry_after, _LAST_RETRY)
            self._seen = version
            self._on_change("refused")
            return
        self._seen, self.current, self.refused = version, opened, None
        self._on_change("opened")

    def _watch(self) -> None:
        while not self._closed.wait(self._seconds):
            self.look()

    def _version(self) -> object:
        """What differs when there is another snapshot; None where that cannot be told."""
        try:
            return None if self._ask is None else self._ask()
        except (PermafrostError, OSError):
            return None


def file_version(path: Path) -> tuple[int, ...]:
    """What differs when the file ``path`` was replaced."""
    status = path.stat()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def open_snapshots(
    path: Path | str,
    *,
    device: str = "cpu",
    everything: bool = False,
    quiet: bool = False,
    on_change: Callable[[str], object],
) -> Snapshots:
    """What to serve of the bundle or the run file at ``path``. Raises what opening it raises."""
    if is_bundle(path) or Path(path).is_dir():
        opener = _BundleOpener(path, device)
        if is_url(str(path)):
            return Snapshots(opener, partial(current_number, path), on_change=on_change, seconds=_FAR)
        return Snapshots(opener, partial(file_version, Path(path, CURRENT)), on_change=on_change, seconds=_NEAR)
    run = open_run(path, quiet=quiet)
    gallery = gallery_of_run(run, device=device, everything=everything)
    run.say_gallery(len(gallery))
    return Snapshots(lambda: gallery, on_change=on_change)


class _BundleOpener:
    """Opens the current snapshot of a bundle; the networks are loaded once, and again for another bundle."""

    def __init__(self, path: Path | str, device: str) -> None:
        self._path, self._device = path, device
        self._loaded: tuple[Bundle, Embedder, OpenClipText | None] | None = None

    def __call__(self) -> Gallery:
        bundle = Bundle.open(self._path)
        if self._loaded is None or self._loaded[0].described != bundle.described:
            self._loaded = bundle, bundle.embedder(self._device), bundle.text(self._device)
        _, embedder, text = self._loaded
        snapshot = read_snapshot(bundle)
        searcher = Searcher.of_snapshot(snapshot, embedder, bundle.thresholds, text)
        head = ServedHead(bundle.described["backbone"], bundle.described["head"], searcher)
        return Gallery(f"{bundle.embeddings[:8]}-{snapshot.number}", (head,), bundle.thumbnail)


def gallery_of_run(run: Run, *, device: str = "cpu", everything: bool = False) -> Gallery:
    """The raw feature and every head of ``run``, best first by the scores that the run has of these embeddings."""
    every = find_vectors(run)
    run = with_rows(run, every)
    best, scores = choose_vectors(run, every, None), _scores(run)
    loaded: dict[str, Backbone] = {}
    ranked = []
    for vectors in every:
        thresholds = thresholds_of(kept_decisions(run, vectors), everything=everything)
        searcher = Searcher.of_run(
            run, vectors, everything=everything, thresholds=thresholds, device=device, loaded=loaded
        )
        numbers = scored_numbers(vectors.store, run.records)
        metric, value = scores.get((vectors.backbone, vectors.head, numbers), ("", 0.0))
        score = f"{metric} {value:.3f}" if metric else ""
        ranked.append((-value, vectors is not best, ServedHead(vectors.backbone, vectors.head, searcher, score)))
    ranked.sort(key=lambda entry: entry[:2])
    return Gallery(run.name, tuple(head for _, _, head in ranked), lambda _: None)  # a run keeps no small pictures


def _scores(run: Run) -> dict[tuple[str, str, str], tuple[str, float]]:
    """The first metric of the run with its value, by backbone, head and the numbers that were scored."""
    try:
        rows = stored_rows(run)
    except (OSError, ValueError, TypeError):  # not scored, or by another version: then validation orders them
        return {}
    return {(row.backbone, row.head, row.embeddings): (row.metric, row.value) for row in reversed(rows)}  # the first
