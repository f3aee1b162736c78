"""Images in tar shards, as img2dataset and webdataset write them: ``KEY.jpg``, ``KEY.json``, ``KEY.txt`` are a sample.

As in webdataset the key is a member's name up to the first dot behind its folders, and the extension all that follows,
in small letters. Members without an extension and hidden ones (``._KEY.jpg``) belong to no sample; they are counted.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import BinaryIO, ClassVar, Literal, NamedTuple

from cache.errors import RecordsError
from cache.source import ImageSource
from cache.storage import open_file
from stages.datasets.config import (
    BY_FILE,
    ColumnsConfig,
    Source,
    as_names,
    first_nested,
    refuse_absent,
    refuse_nested,
    scalar,
    text_table,
)
from stages.datasets.folder import EXTENSIONS
from stages.datasets.shards import Member, Shard, find_shards, list_members

_TEXTS = ("cls", "txt")
_BARE, _HIDDEN = "without an extension", "hidden (the name begins with a dot)"
_Others = dict[str, tuple[int, str]]  # members that belong to no sample, by why not: how many, and the first


@dataclass(frozen=True, kw_only=True)
class WebDatasetConfig(ColumnsConfig):
    """``kind = "webdataset"``: ``path`` is a folder with ``.tar`` files in it or below, a pattern, or one file.

    A column is a field of a sample's json; ``cls`` and ``txt`` are the text of the member with that extension.

    Attributes:
        image: the extension of the image's member; by default any image's.
        key: by default ``SHARD/SAMPLE``.
        split: ``file`` takes the name of the shard up to its number (``train-00000.tar``), or of its folder where the
            name is a number (``train/00000.tar``).
    """

    kind: Literal["webdataset"] = "webdataset"
    image: str | None = None

    _label_is: ClassVar[str] = "field of each sample's json, or the extension (cls, txt)"

    def read(self) -> Source:
        """List the samples; no image is read. A sample without an image is a row with a ``problem``."""
        wanted = {*as_names(self.label), *self.attributes, *self.named({"domain", "split"}).values()}
        lists = dict.fromkeys(wanted, False) | dict.fromkeys(self.several, True)
        known: set[str] = set()
        others: _Others = {}
        shards = find_shards(self.path, ".tar")
        samples = [sample for shard in shards for sample in _samples(shard, lists, known, others)]
        named = self.named(known)
        if self.split == BY_FILE:
            del named["split"]
        used = (*named.values(), *as_names(self.label), *self.attributes)
        refuse_absent(self.path, used, sorted(known), "sample whose json (or cls, txt) says")
        texts = {name: [sample.fields.get(name) for sample in samples] for name in used}
        images = [_image(sample, self.image) for sample in samples]
        made: dict[str, list[str | None]] = {
            "uri": [uri for uri, _ in images],
            "problem": [problem for _, problem in images],
            "place": [sample.place for sample in samples],
        }
        if not self.key:
            made["key"] = [f"{sample.shard.name}/{sample.key}" for sample in samples]
        if self.split == BY_FILE:
            made["split"] = [sample.shard.split for sample in samples]
        source = self.source(text_table(texts), named, made)
        if others:
            _, first = next(iter(others.values()))
            counts = ", ".join(f"{others[why][0]:,} {why}" for why in (_BARE, _HIDDEN) if why in others)
            note = f"members of the shards left out, as they belong to no sample: {counts}; the first is {first}"
            return source._replace(notes=(note, *source.notes))
        return source


class _Sample(NamedTuple):
    """The members of one key, by extension, and the values of the fields that are wanted."""

    shard: Shard
    key: str
    members: Mapping[str, Member]
    fields: Mapping[str, str | None]

    @property
    def place(self) -> str:
        return f"{self.shard.path}, sample {self.key!r}"


def _samples(shard: Shard, wanted: Mapping[str, bool], known: set[str], others: _Others) -> Iterator[_Sample]:
    """The samples of one shard, in the order of their first members.

    ``wanted`` are the fields that are read, and whether a value may be a list. ``known`` collects the names of all
    fields, ``others`` what belongs to no sample.
    """
    grouped: dict[str, dict[str, Member]] = {}
    for member in list_members(shard.path):
        folder, slash, name = member.name.rpartition("/")
        start, dot, extension = name.partition(".")
        if not start or not dot:
            why = _BARE if start else _HIDDEN
            count, first = others.get(why, (0, f"{member.name!r} in {shard.path}"))
            others[why] = count + 1, first
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
    with open_file(shard.path) as file:
        for key, members in grouped.items():
            fields = _fields(shard, file, members, wanted)
            known.update(fields)
            yield _Sample(shard, key, members, {name: fields[name] for name in wanted.keys() & fields.keys()})


def _fields(
    shard: Shard, file: BinaryIO, members: Mapping[str, Member], wanted: Mapping[str, bool]
) -> dict[str, str | None]:
    fields: dict[str, str | None] = {}
    entries: dict[str, object] = {}
    several = [name for name, lists in wanted.items() if lists]

    def place(_: int) -> str:
        return f"{shard.path}, member {members['json'].name!r}"

    for extension in ("json", *_TEXTS):
        if (member := members.get(extension)) is None:
            continue
        file.seek(member.offset)
        content = file.read(member.size)
        try:
            if extension == "json":
                value = json.loads(content)
                if not isinstance(value, dict):
                    raise TypeError(f"it is {type(value).__name__}, not an object")
                entries = value
                fields |= {name: scalar(entry) or None for name, entry in value.items()}
            else:
                fields[extension] = content.decode("utf-8").strip() or None
            "".join(text for text in fields.values() if text).encode("utf-8")
        except (ValueError, TypeError, RecursionError) as error:
            raise RecordsError(
                f"{shard.path}, member {member.name!r} cannot be read as {extension}: {error}"
            ) from error
    for name in entries.keys() & wanted.keys():
        refuse_nested(place, name, first_nested([entries[name]]), several)
    return fields


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
        double = [name for name in sorted(sample.members) if f".{name.rpartition('.')[2]}" in EXTENSIONS]
        return ImageSource(sample.shard.path).uri, (
            f"the sample has no member {wanted or 'with the extension of an image'}, only {held} "
            "(the extension is all behind the first dot of a name"
            + (f": say image = {double[0]!r}, or rename without other dots)" if double and not wanted else ")")
        )
    member = sample.members[extensions[0]]
    return ImageSource(sample.shard.path, (member.offset, member.size)).uri, None
