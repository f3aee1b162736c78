"""Every tutorial is followed, block by block: what it types works, and what it says one sees is seen."""

from pathlib import Path

import pytest

from tests.pictures import draw, write_table
from tests.tutorials import Reader

DOCS = Path(__file__).parent.parent / "docs"


def draw_m4d35k(root: Path) -> None:
    """12 classes of 4 pictures in each of the four folders of M4D-35k, under its list."""
    rows = []
    for at, domain in enumerate(("products-10k", "google_landmark_recognition_2021", "deepfashion", "stanford_cars")):
        for number in range(48):
            label = 12 * at + number // 4
            path = f"{domain}/train/{number}.jpg"
            draw(root / path, 1000 * label + number)
            rows.append({"img_path": path, "label": f"{label}"})
    write_table(root / "m4d-35k_train.csv", rows)


@pytest.mark.slow
@pytest.mark.parametrize("page", sorted(path.name for path in DOCS.glob("tutorial-*.md")))
def test_this_page_can_be_followed(page: str, tmp_path: Path) -> None:
    if page == "tutorial-unifex.md":
        draw_m4d35k(tmp_path / "m4d-35k")
    with Reader(DOCS / page, tmp_path) as reader:
        reader.follow()
