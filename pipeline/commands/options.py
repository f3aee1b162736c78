"""Arguments and flags that several commands share."""

from __future__ import annotations

import json as json_module
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

import typer

from cache import Storage
from cache.errors import AbsentPathError, ConfigError, StoreError
from cache.object_storage import SCHEMES
from cache.storage import has, storage_of
from pipeline.config import read_config
from stages.ray_cluster import RayCluster


def address_of(path: Path) -> str | None:
    """The address in object storage that was typed for ``path``, which has one slash of the two; None for a path.

    >>> address_of(Path("s3://bucket/shop")), address_of(Path("shop"))
    ('s3://bucket/shop', None)
    """
    scheme, slash, rest = str(path).partition(":/")
    return f"{scheme}://{rest}" if slash and scheme in SCHEMES else None


def bundle_there(path: str) -> str:
    """``path``, which holds a bundle. Raises ConfigError where it does not."""
    from pipeline.bundle import is_bundle  # takes PyTorch

    if not is_bundle(path):
        raise ConfigError(f"{path} holds no bundle. `permafrost export RUN.TOML -o {path}` writes one.")
    return path


def images_there(path: Path) -> Path:
    """``path``, where something is, or which is an address. Raises AbsentPathError where nothing is."""
    if not path.exists() and address_of(path) is None:
        raise AbsentPathError(f"{path} does not exist; give a folder of images, seen from {Path.cwd()}")
    return path


def emit(json: bool, text: str, *lines: Mapping[str, object]) -> None:
    """Print a result: ``lines`` as JSON, or ``text`` for a person."""
    for line in map(json_module.dumps, lines) if json else [text]:
        typer.echo(line)


def where_values(where: Sequence[str] | None) -> dict[str, list[str | None]]:
    """The values of ``--where COLUMN=VALUE`` by column; an empty one is that of images without.

    >>> where_values(["colour=red", "colour=blue", "size="])
    {'colour': ['red', 'blue'], 'size': [None]}
    """
    values: dict[str, list[str | None]] = {}
    for text in where or ():
        column, equals, value = text.partition("=")
        if not equals or not column:
            raise ConfigError(f"--where takes COLUMN=VALUE, such as colour=red, got {text!r}")
        values.setdefault(column, []).append(value or None)
    return values


_IDENTITY = "identity.json"


def is_run_file(where: str) -> bool:
    """Whether ``where`` names a run file, and no store.

    >>> is_run_file("s3://bucket/run.toml"), is_run_file("artifacts/shop")
    (True, False)
    """
    return where.endswith(".toml")


def find_stores(where: str) -> list[Storage]:
    """The store at ``where``, or all stores below it, or all of the run file ``where``."""
    storage = storage_of(read_config(where).artifacts if is_run_file(where) else where)
    if stores := [storage] if has(storage, _IDENTITY) else stores_below(storage):
        return stores
    if is_run_file(where):
        raise StoreError(f"{storage.address()} holds no store yet. Run `permafrost extract {where}` first.")
    raise ConfigError(f"{storage.address()} is neither a run file nor the folder of a store")


def stores_below(storage: Storage) -> list[Storage]:
    """Every store in an artifacts folder, by path."""
    folders = [key.removesuffix(f"/{_IDENTITY}") for key in storage.list() if key.endswith(f"/{_IDENTITY}")]
    return [storage.below(folder) for folder in folders]


# A text is the name of a local file or folder, or an address in object storage; a Path is the former alone.
RunFile = Annotated[str, typer.Argument(metavar="RUN.TOML", help="The run file, or its address.")]
RunFiles = Annotated[list[str], typer.Argument(metavar="RUN.TOML...", help="Run files, or their addresses.")]
RunFileOrStore = Annotated[
    str, typer.Argument(metavar="RUN.TOML|STORE", help="A run file or the folder of a store, or its address.")
]
Publish = Annotated[bool, typer.Option("--publish", help="Have the new snapshot searched at once.")]
BundleFolder = Annotated[
    str,
    typer.Argument(
        metavar="BUNDLE", help="The folder or address that `permafrost export` wrote.", callback=bundle_there
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON lines instead of a table.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Only warnings on stderr.")]
Head = Annotated[str | None, typer.Option(help="A head of the run, or raw.")]
BestHead = Annotated[str | None, typer.Option(help="A head of the run, or raw; by default the best on validation.")]
OneBackbone = Annotated[str | None, typer.Option("--backbone", help="A backbone of the run.")]

Device = Annotated[str, typer.Option(help="Where networks run, as PyTorch spells it: cpu, cuda, cuda:1.")]
BatchSize = Annotated[
    int | None, typer.Option(min=1, help="Images in one forward; by default 32, on a GPU found by trial.")
]
Workers = Annotated[int | None, typer.Option(min=1, help="Threads that decode; by default one a processor.")]
Wait = Annotated[bool, typer.Option("--wait", help="Wait for another run on the same stores, and do not refuse.")]
RetryFailed = Annotated[bool, typer.Option("--retry-failed", help="Compute images that failed before again.")]
MaxFailures = Annotated[
    float | None, typer.Option(min=0, max=1, help="Share of images that may fail; by default the run file's.")
]


Place = Literal["local", "ray"]
Executor = Annotated[Place, typer.Option(help="Where the work is done: on this machine, or on a Ray cluster.")]
Address = Annotated[
    str | None,
    typer.Option(metavar="HOST:PORT", help="Of the Ray cluster, or auto; by default one of this machine alone."),
]
Cpus = Annotated[
    int | None, typer.Option(min=1, help="Processors of each worker of the Ray cluster; by default all of a machine.")
]


def ray_cluster(executor: Place, address: str | None, cpus: int | None) -> RayCluster | None:
    """The Ray cluster that the options name, which answers; None for this machine."""
    if executor == "local":
        if address is not None or cpus is not None:
            raise ConfigError("--address and --cpus are of a Ray cluster: add --executor ray, or leave them out")
        return None
    cluster = RayCluster(address, cpus)
    cluster.check()
    return cluster
