"""The run file: TOML -> frozen dataclasses. Unknown keys are refused by their dotted path.

The file says *what* is computed; flags say how: device, workers, batch size.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, TypeAdapter, ValidationError

from cache.errors import ConfigError, SettingsError
from cache.settings import Settings, Within
from cache.storage import is_url, storage_of
from pipeline.run_files import expanded, map_paths, recipes, resolved, run_file_text, with_recipe
from stages.analysis.sizes import SIZES, check_sizes
from stages.curation import CurateConfig
from stages.datasets import DatasetConfig, SourceConfig
from stages.extraction.backbones import BundledConfig, OpenClipConfig, PcaConfig, TimmConfig
from stages.extraction.precomputed import PrecomputedConfig
from stages.records.reading import check_names
from stages.retrieval import FlatIndexConfig, IndexConfig, RerankConfig
from stages.retrieval.evaluate import ScoringConfig
from stages.training import SweepConfig
from stages.training.recipe import HeadRecipe
from stages.training.sweep.search_space import Seeds

# [dataset], or [[dataset]] several times. The tags stand in pydantic's paths, from which `problem` takes them out: a
# tag has a space, a key has none.
_ONE, _SEVERAL = "one dataset", "several datasets"
Datasets = Annotated[
    Annotated[DatasetConfig, Tag(_ONE)] | Annotated[tuple[DatasetConfig, ...], Tag(_SEVERAL)],
    Discriminator(lambda value: _SEVERAL if isinstance(value, (list, tuple)) else _ONE),
]

FeaturesConfig = Annotated[
    BundledConfig | OpenClipConfig | PcaConfig | PrecomputedConfig | TimmConfig, Field(discriminator="kind")
]
"""Where features are from: a network that runs over the images, or a file."""

RAW = "raw"
"""What stands in the place of a head where the feature itself is scored."""


@dataclass(frozen=True)
class ExtractionConfig(Settings):
    """``[extraction]``: how features are stored, and when failures are too many.

    Args:
        dtype: of a stored number; part of the identity of the store.
        max_failures: the share of images that may fail before the exit status says so.
    """

    dtype: Literal["float16", "float32"] = "float16"
    max_failures: Annotated[float, Within("[0, 1]", "a share of the images")] = 0.01


@dataclass(frozen=True)
class HeadRun(Settings):
    """One of ``[[heads]]``: a recipe with a name, and the features that it takes.

    In the file the keys of the head itself and the parts of the recipe (``loss``, ``start``, ``optimizer``,
    ``training``) stand beside ``name``; ``recipe`` there names a preset that fills them in.

    Args:
        name: of the head in tables and folders.
        recipe: the head, and what it is trained by.
        backbones: names of backbones whose features, each of unit length, are concatenated for this head; ``all`` of
            the run. Left out, a head is trained on each backbone by itself.
        sizes: append the proportions of the image to the features: H / W, H / 224, W / 224.
    """

    name: str
    recipe: HeadRecipe
    backbones: tuple[str, ...] | Literal["all"] = ()
    sizes: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+-]*", self.name) or self.name == RAW:
            raise SettingsError(
                f"a head's name is made of letters, digits and . _ + - and is not 'raw', got {self.name!r}"
            )
        if self.backbones != "all" and len({*self.backbones}) < len(self.backbones):
            raise SettingsError(f"backbones are named once each, got {', '.join(self.backbones)}")


@dataclass(frozen=True)
class RetrievalConfig(ScoringConfig):
    """``[retrieval]``: the index, and the protocol and metrics to score by.

    Args:
        index: what is searched, or the budgets to choose it by. Scores through it stand beside those of exact search.
        gallery_sizes: of ``permafrost gallery-sizes``: shares of the gallery up to 1, or numbers of distractors.
        distractors: there, values of the split column with further distractors.
        rerank: post-processing, each scored in a row of its own.
    """

    index: IndexConfig = FlatIndexConfig()
    gallery_sizes: tuple[float, ...] = SIZES
    distractors: tuple[str, ...] = ()
    rerank: tuple[RerankConfig, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        check_sizes(self.gallery_sizes)


@dataclass(frozen=True)
class RepeatConfig(Settings):
    """``[repeat]``: the run as a table over seeds, with a learning curve.

    Args:
        seeds: every head is trained with each; a closed form, which draws nothing, once.
        rows: numbers of training images for the learning curve, one of each class by turns; all come last. A
            class comes in with as many as the head's training.minimum_class_size.
        curve: the heads in it, by name; by default all. The curve is of the first backbone.
    """

    seeds: Seeds = (0, 1, 2, 3, 4)
    rows: tuple[int, ...] = ()
    curve: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if list(self.rows) != sorted({*self.rows}) or (self.rows and self.rows[0] < 1):
            raise SettingsError(f"rows are numbers of images, at least 1 and ascending, got {list(self.rows)}")


@dataclass(frozen=True)
class RunConfig(Settings):
    """A whole run file. ``dataset`` is one, or several that are joined.

    Args:
        artifacts: the folder for everything that is made: features, heads, embeddings, indexes, scores; or an address
            in object storage, ``s3://bucket/shop``.
        dataset: the images, their labels and splits; several are joined.
        backbones: the frozen networks that images are run through, at least one.
        heads: what is trained or computed on the features; without any, raw features are scored.
        extraction: how features are stored.
        retrieval: how scores are made.
        curate: what ``permafrost curate`` keeps.
        sweep: what ``permafrost sweep`` tries.
        repeat: what ``permafrost table`` repeats.
        seed: of splits that are made, weights, the order of rows, and everything else that is drawn.
    """

    artifacts: str
    dataset: Datasets
    backbones: tuple[FeaturesConfig, ...]
    heads: tuple[HeadRun, ...] = ()
    extraction: ExtractionConfig = ExtractionConfig()
    retrieval: RetrievalConfig = RetrievalConfig()
    curate: CurateConfig = CurateConfig()
    sweep: SweepConfig | None = None
    repeat: RepeatConfig | None = None
    seed: Annotated[int, Within("[0, inf]")] = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_names(self.datasets)
        for conflict in self._conflicts():
            raise SettingsError(conflict)
        if not is_url(self.artifacts):
            storage_of(self.artifacts)  # refuses what is neither

    def _conflicts(self) -> Iterator[str]:
        """What does not go together."""
        if not self.backbones:
            yield "a run needs at least one of [[backbones]]"
        for at, backbone in enumerate(self.backbones):
            places = [getattr(backbone, name, None) for name in ("path", "keys", "weights")]
            if far := [place for place in places if isinstance(place, str) and is_url(place)]:
                yield f"{far[0]} is in object storage: copy the file to a local disk, and name it there"
            if backbone in self.backbones[:at]:
                yield "two of [[backbones]] are the same; drop one"
        learns = bool(self.heads) or any(isinstance(backbone, PcaConfig) for backbone in self.backbones)
        if learns and all(dataset.query is not None and not dataset.train for dataset in self.datasets):
            yield "heads and pca learn from train: name its values of the split column, dataset.train = ..."
        if not self.artifacts:
            yield "artifacts names the folder for everything that is made; it is empty"
        for dataset in self.datasets:
            of_images = dataset.kind in ("folder", "parquet", "webdataset")
            if is_url(dataset.path) and not of_images:
                yield (
                    f"dataset.path ({dataset.path}) is in object storage, and only a folder, Parquet files and tar "
                    "shards of images are read there. Copy the table here: its images may stay there, with "
                    'root = "s3://bucket/images" or such addresses in the table.'
                )
            if of_images and _is_inside(self.artifacts, dataset.path):
                yield (
                    f"artifacts ({self.artifacts}) lies in the folder of images ({dataset.path}): pictures made there "
                    "would become records. Name a folder outside."
                )
        names = [head.name for head in self.heads]
        curve = () if self.repeat is None else self.repeat.curve
        if unknown := [name for name in curve if name not in names]:
            yield f"repeat.curve names the head {unknown[0]!r}; there are {', '.join(names) or 'none'}"
        if repeated := {name for name in names if names.count(name) > 1}:
            yield f"two heads are called {min(repeated)!r}; every head needs a name of its own"

    @property
    def datasets(self) -> tuple[SourceConfig, ...]:
        """The dataset, or all of several, in the order of the file."""
        return self.dataset if isinstance(self.dataset, tuple) else (self.dataset,)


def _is_inside(place: str, folder: str) -> bool:
    if is_url(place) or is_url(folder):
        return f"{place}/".startswith(f"{folder.rstrip('/')}/")
    return Path(place).resolve().is_relative_to(Path(folder).resolve())


def read_config(path: Path | str) -> RunConfig:
    """Read a run file, which may be at an address in object storage; its relative paths are relative to its folder.

    Raises :class:`ConfigError` naming the dotted path of what is wrong in it.

    >>> from importlib.resources import as_file, files
    >>> with as_file(files("pipeline") / "presets/demo.toml") as path:
    ...     read_config(path).heads[0].name
    'default128'
    """
    folder = Path(path).parent if not is_url(str(path)) else str(path).rpartition("/")[0]
    return parse_config(run_file_text(path), str(path), folder)


def parse_config(text: str, name: str = "the run file", folder: Path | str | None = None) -> RunConfig:
    """:func:`read_config` for the text of a run file in ``folder``, by default where one stands.

    ``name`` begins its messages.

    >>> text = 'artifacts = "out"; dataset = { kind = "folder", path = "images" }; backbones = [{ kind = "pca" }]'
    >>> parse_config(text.replace("; ", chr(10))).backbones[0].name
    'pca'
    """
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{name} is not TOML: {error}") from error
    changed = map_paths(raw, lambda key, path: resolved(expanded(key, path, name), key, name, folder))
    own = _own_recipes(changed.pop("recipes", {}), name)
    if isinstance(changed.get("heads"), list):
        changed["heads"] = [
            _nest(head, own, f"{name}: heads[{at}]") if isinstance(head, dict) else head
            for at, head in enumerate(changed["heads"])
        ]
    try:
        return TypeAdapter(RunConfig).validate_python(changed)
    except ValidationError as error:
        from pipeline.keys import problem  # which imports this module

        problems = [f"  {problem(dict(details), changed)}" for details in error.errors()]
        raise ConfigError("\n".join([f"{name}:", *problems])) from error


def _own_recipes(own: Any, name: str) -> dict[str, Any]:
    """The ``[recipes.NAME]`` of a run file: keys of ``[[heads]]`` to be used under one word."""
    if not isinstance(own, dict) or not all(isinstance(recipe, dict) for recipe in own.values()):
        raise ConfigError(f"{name}: recipes is a table of tables, one a recipe: [recipes.mine]")
    if taken := sorted(recipes().keys() & own.keys()):
        raise ConfigError(f"{name}: recipes.{taken[0]} has the name of a recipe that is there: take another")
    return own


def _nest(head: dict[str, Any], own: dict[str, Any], where: str) -> dict[str, Any]:
    """One of ``[[heads]]`` as :class:`HeadRun` has it: the preset filled in, the recipe and the head as own tables."""
    try:
        flat = with_recipe(head, own)
    except ValueError as error:
        raise ConfigError(f"{where}.{error}") from error
    of_run = {field.name for field in fields(HeadRun)} - {"recipe"}
    of_recipe = {field.name for field in fields(HeadRecipe)} - {"head"}
    nested = {key: flat.pop(key) for key in of_run & flat.keys()}
    recipe = {key: flat.pop(key) for key in of_recipe & flat.keys()}
    return nested | {"recipe": recipe | {"head": {"kind": "linear"} | flat}}
