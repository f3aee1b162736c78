"""What every benchmark writes down: rows of figures with the machine, the versions and the date."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path

_LIBRARIES = ("numpy", "open_clip_torch", "pillow", "timm", "torch", "torchvision", "zarr")


@dataclass(frozen=True)
class Row:
    """One comparison. Where less is better ``ratio`` is theirs over ours: more is always better."""

    work: str
    permafrost: float
    against: str
    other: float
    unit: str
    ratio: float
    target: float
    limit: str

    @property
    def met(self) -> bool:
        """Whether the target is reached."""
        return self.ratio >= self.target


def write(name: str, rows: Sequence[Row]) -> None:
    """Print ``rows`` as a table, and write them to ``results/<name>.json``."""
    print(f"\n{'work':66} {'permafrost':>10} {'other':>10} {'unit':8} {'ratio':>6} {'target':>6}      against; limit")
    for row in rows:
        print(
            f"{row.work:66} {row.permafrost:10.2f} {row.other:10.2f} {row.unit:8} {row.ratio:6.2f} {row.target:6.2f} "
            f"{'met ' if row.met else 'MISS'} {row.against}; {row.limit}"
        )
    document = {
        "machine": machine(),
        "versions": {"python": platform.python_version()} | {library: version(library) for library in _LIBRARIES},
        "date": date.today().isoformat(),
        "rows": [asdict(row) | {"met": row.met} for row in rows],
    }
    path = Path(__file__).with_name("results") / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(document, indent=2) + "\n")


def machine() -> str:
    """The processor, how many of it, and the memory, in words."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    except (OSError, StopIteration, ValueError):
        return platform.platform()
    return f"{os.cpu_count()} x {model}, {memory:.0f} GiB"
