"""Images in tar shards, as img2dataset and webdataset write them: ``KEY.jpg``, ``KEY.json``, ``KEY.txt`` are a sample.

As in webdataset the key is a member's name up to the first dot behind its folders, and the extension all that follows,
in small letters. Members without an extension and hidden ones (``._KEY.jpg``) belong to no sample.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Set
from typing import BinaryIO, NamedTuple

import pyarrow as pa

from cache.errors import RecordsError
from cache.source import ImageSource
from stages.datasets.columns import refuse_absent, scalar
from stages.datasets.config import BY_FILE, CLASS_DISJOINT, DatasetConfig, Source, as_names
from stages.datasets.folder import EXTENSIONS
from stages.datasets.shards import Shard, find_shards
from stages.datasets.tar import Member, list_members

_TEXTS = ("cls", "txt")


def read_webdataset(config: DatasetConfig) -> Source:
    """List the samples of the shards that ``config.path`` names; no image is read.

    A sample without an image is a row with a ``problem``. Whatever else is wrong raises :class:`RecordsError` naming
    the shard and its member or sample.
    """
    labels = as_names(config.label)
    named = (config.key, config.tags, config.domain or "domain", config.split or "split")
    wanted = {*labels, *config.attributes, *filter(None, named)}
    seen: set[str] = set()
    samples = [sample for shard in find_shards(config.path, ".tar") for sample in _samples(shard, wanted, seen)]
    domain = config.domain or ("domain" if "domain" in seen else None)
    split = config.split or ("split" if "split" in seen else None)
    column = None if split in (BY_FILE, CLASS_DISJOINT) else split
    refuse_absent(config.path, (config.key, domain, column, config.tags, *labels, *config.attributes), sorted(seen))

    def said(name: str | None) -> list[str | None]:
        return [sample.said.get(name) if name else None for sample in samples]

    found = [_image(sample, config.image) for sample in samples]
    columns: dict[str, list[str | None]] = {
        "key": said(config.key) if config.key else [f"{sample.shard.name}/{sample.key}" for sample in samples],
        "uri": [uri for uri, _ in found],
        "label": [_joined([sample.said.get(name) for name in labels]) for sample in samples],
        "domain": said(domain),
        "split": [sample.shard.split for sample in samples] if split == BY_FILE else said(column),
        "tags": said(config.tags),
        "problem": [problem for _, problem in found],
        "place": [sample.place for sample in samples],
        **{f"attributes.{name}": said(name) for name in config.attributes},
    }
    table = pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()})
    return Source(table, split == BY_FILE or column is not None)


class _Sample(NamedTuple):
    """The members of one key, by extension, and what they say of the names that are wanted."""

    shard: Shard
    key: str
    members: Mapping[str, Member]
    said: Mapping[str, str | None]

    @property
    def place(self) -> str:
        return f"{self.shard.path}, sample {self.key!r}"


def _samples(shard: Shard, wanted: Set[str], seen: set[str]) -> Iterator[_Sample]:
    """The samples of one shard, in the order of their first members; ``seen`` collects the names of all they say."""
    grouped: dict[str, dict[str, Member]] = {}
    for member in list_members(shard.path):
        folder, slash, name = member.name.rpartition("/")
        start, dot, extension = name.partition(".")
        if not start or not dot:
            continue
        members = grouped.setdefault(folder + slash + start, {})
        if extension.lower() in members:
            raise RecordsError(
                f"{shard.path}, member {member.name!r}: a second one of this name. Was the shard appended to? "
                "Write it anew, each key once."
            )
        members[extension.lower()] = member
    if not grouped:
        raise RecordsError(f"{shard.path} holds no sample: it is an empty tar, or its members have no extension")
    with open(shard.path, "rb") as file:
        for key, members in grouped.items():
            said = _said(shard, file, members)
            seen.update(said)
            yield _Sample(shard, key, members, {name: said[name] for name in wanted & said.keys()})


def _said(shard: Shard, file: BinaryIO, members: Mapping[str, Member]) -> dict[str, str | None]:
    """What the sample's json and its texts say, by name."""
    said: dict[str, str | None] = {}
    for extension in ("json", *_TEXTS):
        if (member := members.get(extension)) is None:
            continue
        file.seek(member.offset)
        content = file.read(member.size)
        try:
            if extension == "json":
                fields = json.loads(content)
                if not isinstance(fields, dict):
                    raise TypeError(f"it is {type(fields).__name__}, not an object")
                said |= {name: scalar(value) or None for name, value in fields.items()}
            else:
                said[extension] = content.decode("utf-8").strip() or None
            "".join(value for value in said.values() if value).encode("utf-8")
        except (ValueError, TypeError, RecursionError) as error:
            raise RecordsError(
                f"{shard.path}, member {member.name!r} cannot be read as {extension}: {error}"
            ) from error
    return said


def _image(sample: _Sample, wanted: str | None) -> tuple[str, str | None]:
    """The URI of the sample's image; or the shard's, and why there is no image."""
    if wanted is not None:
        extensions = [name for name in sample.members if name == wanted.lower().removeprefix(".")]
    else:
        extensions = [name for name in sample.members if f".{name}" in EXTENSIONS]
    if len(extensions) > 1:
        names = " and ".join(repr(sample.members[name].name) for name in extensions)
        raise RecordsError(f"{sample.place} has the images {names}: say which it is, image = {extensions[0]!r}")
    if not extensions:
        held = ", ".join(sorted(sample.members))
        return ImageSource(sample.shard.path).uri, (
            f"the sample has no member {wanted or 'with the extension of an image'}, only {held} "
            "(the extension is all behind the first dot of a name)"
        )
    member = sample.members[extensions[0]]
    return ImageSource(sample.shard.path, (member.offset, member.size)).uri, None


def _joined(values: list[str | None]) -> str | None:
    known = [value for value in values if value is not None]
    return "/".join(known) if len(known) == len(values) else None
