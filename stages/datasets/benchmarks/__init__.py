"""The field's named benchmarks, each read from the files that its distributor gives, as they are unpacked.

A run file needs only ``kind`` and ``path``: labels, splits and the roles of the splits are those of the benchmark's
usual protocol. ``train``, ``query`` and ``gallery`` of a run file override the roles, ``split = "class-disjoint"`` the
splits. To add one: write its file, and name it in ``BENCHMARKS`` and in ``stages.datasets.config``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from stages.datasets.benchmarks.cars196 import read_cars196
from stages.datasets.benchmarks.cub200 import read_cub200
from stages.datasets.benchmarks.food2k import read_food2k
from stages.datasets.benchmarks.gldv2 import read_gldv2
from stages.datasets.benchmarks.inat2018 import read_inat2018
from stages.datasets.benchmarks.inshop import read_inshop
from stages.datasets.benchmarks.instre import read_instre
from stages.datasets.benchmarks.m4d35k import read_m4d35k
from stages.datasets.benchmarks.met import read_met
from stages.datasets.benchmarks.products10k import read_products10k
from stages.datasets.benchmarks.revisited import read_revisited
from stages.datasets.benchmarks.rp2k import read_rp2k
from stages.datasets.benchmarks.sop import read_sop
from stages.datasets.benchmarks.uned import read_uned
from stages.datasets.config import DatasetConfig, Source

BENCHMARKS: Mapping[str, Callable[[DatasetConfig], Source]] = {
    "cars196": read_cars196,
    "cub200": read_cub200,
    "food2k": read_food2k,
    "gldv2": read_gldv2,
    "inat2018": read_inat2018,
    "inshop": read_inshop,
    "instre": read_instre,
    "m4d35k": read_m4d35k,
    "met": read_met,
    "products10k": read_products10k,
    "roxford5k": read_revisited,
    "rp2k": read_rp2k,
    "rparis6k": read_revisited,
    "sop": read_sop,
    "uned": read_uned,
}

__all__ = ["BENCHMARKS"]
