"""Google Landmarks v2.

::

    train_clean.csv                    landmark_id, images
    index_image_to_landmark.csv        id, landmark_id
    retrieval_solution_v2.1.csv        id, images, Usage
    recognition_solution_v2.1.csv      id, landmarks, Usage
    train/  index/  test/              0/1/2/0123456789abcdef.jpg

The csv files lie at the top, in ``metadata/`` and ``ground_truth/``, or with the images that they list.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from cache.errors import RecordsError
from stages.datasets.benchmarks.benchmark import BenchmarkConfig, Row, as_list
from stages.datasets.benchmarks.files import read_named_columns
from stages.datasets.config import Roles


@dataclass(frozen=True, kw_only=True)
class Gldv2Benchmark(BenchmarkConfig):
    """Google Landmarks v2: 1,580,470 clean images to train, 761,757 in the index, 1,129 retrieval queries.

    A key is the folder and the image's id, ``index/0123456789abcdef``; a label the landmark id. A query's label is the
    landmark that most of its relevant images show; the full ground truth is kept beside it:

    - ``attributes.relevant``: the keys of its index images in the retrieval solution, a JSON list;
    - ``attributes.landmarks``: its landmark ids in the recognition solution, a JSON list, possibly empty;
    - ``attributes.usage``: Public, Private or Ignored, in the retrieval solution.

    Test images that are no retrieval query are of the split ``query_distractor``, of no role and without a label.
    Where there is no ``train`` folder its images are left out: raw features can be scored, and no head trained.
    """

    kind: Literal["gldv2"] = "gldv2"

    title: ClassVar[str] = "Google Landmarks v2"
    distributor: ClassVar[str] = "the Common Visual Data Foundation (CVDF)"
    roles: ClassVar[Roles] = {"train": ("train",), "query": ("query",), "gallery": ("index",)}

    def rows(self) -> Iterator[Row]:
        """The training images, the index, then the test images."""
        index, test = self.folder("index"), self.folder("test")
        if self.has("train"):
            yield from _trained(self._table("train", "train_clean.csv"), self.folder("train"))
        landmark_of = {}
        path = self._table("index", "index_image_to_landmark.csv")
        for image, landmark in zip(*read_named_columns(path, "id", "landmark_id"), strict=True):
            image = _checked(image, path)
            landmark_of[image] = landmark
            yield Row(f"index/{image}", _uri(index, image), landmark, "index")
        recognised = self._table("test", "recognition_solution_v2.1.csv")
        landmarks_of = dict(zip(*read_named_columns(recognised, "id", "landmarks"), strict=True))
        path = self._table("test", "retrieval_solution_v2.1.csv")
        for image, images, usage in zip(*read_named_columns(path, "id", "images", "Usage"), strict=True):
            image = _checked(image, path)
            relevant = images.split() if images and usage != "Ignored" else []
            landmarks = (landmarks_of.get(image) or "").split()
            attributes = {
                "relevant": as_list(f"index/{name}" for name in relevant),
                "landmarks": as_list(landmarks),
                "usage": usage,
            }
            label = _label(relevant, landmark_of, landmarks)
            split = "query" if relevant else "query_distractor"
            yield Row(f"test/{image}", _uri(test, image), label, split, attributes=attributes)

    def _table(self, split: str, name: str) -> Path:
        return self.file(*(f"{place}{name}" for place in ("", "metadata/", "ground_truth/", f"{split}/")))


def _trained(path: Path, folder: Path) -> Iterator[Row]:
    for landmark, images in zip(*read_named_columns(path, "landmark_id", "images"), strict=True):
        for image in (images or "").split():
            yield Row(f"train/{image}", _uri(folder, image), landmark, "train")


def _label(relevant: Sequence[str], landmark_of: dict[str, str | None], landmarks: Sequence[str]) -> str | None:
    if not relevant:
        return None
    shown = Counter(landmark for image in relevant if (landmark := landmark_of.get(image)) is not None)
    return shown.most_common(1)[0][0] if shown else next(iter(landmarks), None)


def _uri(folder: Path, image: str) -> str:
    return f"{folder}/{image[0]}/{image[1]}/{image[2]}/{image}.jpg"


def _checked(image: str | None, path: Path) -> str:
    if image is None or len(image) < 3:
        raise RecordsError(f"{path}: an id must be that of an image, 16 letters and digits, got {image!r}")
    return image
