"""A catalogue of made-up products, for ``permafrost demo``: its images are drawn, they are not photographs.

Every *instance* is one product, every *view* shows it in another pose, on another background, under other light, and
perhaps partly hidden. A score on these images shows that the pipeline works; it says nothing about photographs.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa

from cache.errors import RecordsError, SettingsError
from stages.datasets.config import Names, Source, SourceConfig
from stages.datasets.drawn.painting import FAMILIES, Product, invent, photograph
from stages.datasets.table import TableConfig, write_table
from stages.processes import processors, worker_processes

COLUMNS = ("path", "key", "label", "category", "shape", "colour", "pattern", "material")
_EDITION = 4  # raised when the drawing changes, so that older catalogues are drawn again


@dataclass(frozen=True, kw_only=True)
class DrawnConfig(SourceConfig):
    """``kind = "drawn"``: the demo's catalogue in the folder ``path``, drawn first where it is not there yet.

    Attributes:
        label: a column of the catalogue, or several, joined by ``/``; by default the product.
        attributes: columns of the catalogue for the multi-label method.
    """

    kind: Literal["drawn"] = "drawn"
    label: Names = "label"
    attributes: tuple[str, ...] = ()
    split: Literal["class-disjoint"] | None = None

    def read(self) -> Source:
        """The table of the catalogue."""
        table = draw_catalogue(Path(self.path))
        return TableConfig(path=str(table), label=self.label, attributes=self.attributes).read()


def draw_catalogue(
    folder: Path, *, instances: int = 300, views: int = 10, size: int = 160, seed: int = 0, workers: int | None = None
) -> Path:
    """Draw ``instances * views`` JPEG images of ``size`` pixels square under ``folder``, then its ``labels.csv``.

    The same arguments give the same bytes, whatever the number of ``workers``: processes, by default one a processor,
    so a script calls this under ``if __name__ == "__main__"``; 1 draws in this process. The table is written last: a
    folder without it is half drawn and is drawn again. Raises RecordsError where there is another's ``labels.csv``.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     len(draw_catalogue(Path(folder), instances=2, views=3, size=32, workers=1).read_text().splitlines())
    7
    """
    workers = processors() if workers is None else workers
    settings = {"instances": instances, "views": views, "size": size, "seed": seed}
    for (name, value), least in zip((settings | {"workers": workers}).items(), (1, 1, 32, 0, 1), strict=True):
        if value < least:
            raise SettingsError(f"{name} must be at least {least}, got {value}")
    table, marker, wanted = folder / "labels.csv", folder / "catalogue.json", {"edition": _EDITION} | settings
    if table.exists():
        if not marker.exists():
            raise RecordsError(
                f"{table} was not drawn by this command, so it is left alone. Name another folder for the catalogue."
            )
        if json.loads(marker.read_text()) == wanted:
            return table
        table.unlink()
    folder.mkdir(parents=True, exist_ok=True)
    marker.write_text(json.dumps(wanted) + "\n")
    draw = partial(_draw_instance, folder, views, size, seed)
    # Processes, which start when work comes: threads would wait for the interpreter's lock, as most calls are short.
    with worker_processes(min(workers, instances)) as pool:
        each = map if workers == 1 else partial(pool.map, chunksize=4)
        rows = [row for drawn in each(draw, range(instances)) for row in drawn]
    write_table(table, pa.table(list(map(pa.array, zip(*rows, strict=True))), COLUMNS))
    return table


def _draw_instance(folder: Path, views: int, size: int, seed: int, instance: int) -> list[tuple[str, ...]]:
    """Draw every view of one product; return its lines of the table, in the order of ``COLUMNS``."""
    product, rows = _product(seed, instance, size), []
    label = f"{product.words[0]}-{instance:03d}"
    (folder / "images" / label).mkdir(parents=True, exist_ok=True)
    for view in range(views):
        # numpy seeds [s, i] and [s, i, 0] alike: count views from 1.
        rng = np.random.default_rng([seed, instance, 1 + view])
        # The same few things lie about, whichever product a view shows.
        clutter = [_product(seed, 10**9 + int(k), size // 3) for k in rng.integers(60, size=rng.integers(4))]
        path = f"images/{label}/{view:02d}.jpg"
        photograph(product, clutter, size, rng).save(folder / path, quality=88)
        rows.append((path, f"{label}/{view:02d}", label, *product.words))
    return rows


@lru_cache(100)
def _product(seed: int, instance: int, pixels: int) -> Product:
    return invent(list(FAMILIES)[instance % len(FAMILIES)], pixels, np.random.default_rng([seed, instance]))
