"""A recipe: all that a head is trained by but the data and the seed, and its settings by dotted key."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass
from typing import Annotated, Any, ClassVar, TypeAlias

from pydantic import Field, TypeAdapter, ValidationError

from cache.errors import ConfigError
from stages.training.closed_form import ClosedFormConfig
from stages.training.config import TrainingConfig
from stages.training.head import HeadConfig
from stages.training.initialization import check_start
from stages.training.loss import LossConfig
from stages.training.multilabel import MultilabelHeadConfig
from stages.training.optimizer import OptimizerConfig

KINDS = ("kind", "loss.kind", "start.kind")
"""The keys whose values say what other keys there are."""

_PARTS = ("loss", "start", "optimizer", "training")  # the other keys are those of the head proper, as in a run file

Settings = Mapping[str, Any]
Start: TypeAlias = Annotated[ClosedFormConfig, Field(discriminator="kind")]


@dataclass(frozen=True)
class Recipe:
    """What :func:`~stages.training.train_head` takes besides the data and the seed.

    Its settings go by the dotted keys of one of ``[[heads]]`` in a run file: ``dim``, ``inputs.root``, ``loss.scale``,
    ``optimizer.lr``, ``training.epochs``.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    head: HeadConfig
    loss: LossConfig | None = None
    start: Start | None = None
    optimizer: OptimizerConfig = OptimizerConfig()
    training: TrainingConfig = TrainingConfig()

    def __post_init__(self) -> None:
        check_start(self.head, self.loss, self.start, self.training)

    @property
    def drawn(self) -> bool:
        """Whether anything is drawn by lot: a closed form is the same for every seed."""
        return self.loss is not None or isinstance(self.head, MultilabelHeadConfig)

    @property
    def method(self) -> str:
        """In one word what makes the head: the kind of its loss, or of the closed form."""
        return self.loss.kind if self.loss is not None else self.head.kind

    def dotted_keys(self) -> tuple[str, ...]:
        """Every dotted key there is with this kind of head and this loss."""
        parts = {part: getattr(self, part) for part in _PARTS}
        inside = (f"{part}.{key}" for part, value in parts.items() if value is not None for key in _keys_of(value))
        return (*_keys_of(self.head), *parts, *inside)

    def value(self, key: str) -> Any:
        """What stands at a dotted key. Raises KeyError where there is none."""
        here: Any = self
        for part in _path(key):
            if part not in {field.name for field in fields(here)}:
                raise KeyError(key)
            here = getattr(here, part)
        return here

    def having(self, settings: Settings) -> Recipe:
        """This recipe with other ``settings``, by dotted key; a table stands for a whole part, ``inputs`` or ``start``.

        A new ``kind`` keeps what was set for the old one (differs from its defaults) where it has that key, and has
        its own defaults elsewhere. What hangs together moves together unless it is set too: ``optimizer.final_lr``
        keeps its share of ``optimizer.lr``, and ``start.dim`` is ``dim``.

        Raises ConfigError for an unknown key, with the nearest, and for a value that the key cannot take.
        """
        recipe = self._of_kinds({key: settings[key] for key in KINDS if key in settings})
        recipe.check_keys(settings)
        described = asdict(recipe)
        settings = {**settings, **recipe._moved_along(settings)}
        for key, value in settings.items():
            *above, last = _path(key)
            here = described
            for part in above:
                here = here[part]
            here[last] = value
        made: Recipe = _validated(Recipe, described, settings)
        return made

    def check_keys(self, keys: Settings) -> None:
        """Raise ConfigError for the first of ``keys`` that is none of :meth:`dotted_keys`."""
        known = self.dotted_keys()
        for key in keys:
            if key not in known:
                raise ConfigError(f"{key}: unknown key{nearest_key(key, known)}")

    def _moved_along(self, settings: Settings) -> Settings:
        """What hangs together with ``settings`` and is not among them."""
        moved: dict[str, Any] = {}
        lr, dim = settings.get("optimizer.lr"), settings.get("dim", self.head.dim)
        if isinstance(lr, (int, float)) and "optimizer.final_lr" not in settings:
            moved["optimizer.final_lr"] = float(f"{lr * self.optimizer.final_lr / self.optimizer.lr:.4g}")
        if isinstance(start := settings.get("start"), Mapping):
            moved["start"] = {"dim": dim} | dict(start)
        elif self.start is not None and "start.dim" not in settings:
            moved["start.dim"] = dim
        return moved

    def _of_kinds(self, kinds: Settings) -> Recipe:
        parts = {
            "kind": (HeadConfig, self.head),
            "loss.kind": (LossConfig, self.loss),
            "start.kind": (Start, self.start),
        }
        head, loss, start = (
            _recast(union, config, kinds[key], key) if key in kinds else config
            for key, (union, config) in parts.items()
        )
        described = {"head": head, "loss": loss, "start": start, "optimizer": self.optimizer, "training": self.training}
        made: Recipe = _validated(Recipe, described, kinds)
        return made


def nearest_key(key: str, known: tuple[str, ...]) -> str:
    """The end of a message about an unknown ``key``: the nearest of the ``known`` ones, or nothing."""
    near = difflib.get_close_matches(key, known, n=1)
    return f"; did you mean {near[0]}?" if near else ""


def _keys_of(config: Any) -> tuple[str, ...]:
    found: list[str] = []
    for field in fields(config):
        found.append(field.name)
        if is_dataclass(value := getattr(config, field.name)):
            found += [f"{field.name}.{key}" for key in _keys_of(value)]
    return tuple(found)


def _path(key: str) -> tuple[str, ...]:
    parts = tuple(key.split("."))
    return parts if parts[0] in _PARTS else ("head", *parts)


def _recast(union: Any, config: Any, kind: object, key: str) -> Any:
    """The configuration of ``kind``, one of ``union``, with what ``config`` has set where both have it."""
    if config is not None and config.kind == kind:
        return config
    new = _validated(union, {"kind": kind}, {key: kind})
    if config is None:
        return new
    plain = type(config)()
    kept = {field.name: getattr(config, field.name) for field in fields(new) if hasattr(config, field.name)}
    kept = {name: _plain(value) for name, value in kept.items() if value != getattr(plain, name) and name != "kind"}
    return _validated(union, asdict(new) | kept, {key: kind})


def _plain(value: Any) -> Any:
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value


def _validated(kind: Any, described: Mapping[str, Any], settings: Settings) -> Any:
    try:
        return TypeAdapter(kind).validate_python(described)
    except ValidationError as error:
        said = ", ".join(f"{key} = {value!r}" for key, value in settings.items())
        first = error.errors()[0]
        message = str(first["msg"]).removeprefix("Value error, ")
        if first["type"] == "union_tag_invalid":
            message = f"kind must be one of {first['ctx']['expected_tags']}, got {first['ctx']['tag']!r}"
        raise ConfigError(f"{said}: {message}") from error
