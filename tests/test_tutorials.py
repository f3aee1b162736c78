"""Every tutorial is followed, block by block: what it types works, and what it says one sees is seen."""

from pathlib import Path

import pytest

from tests.tutorials import Reader

DOCS = Path(__file__).parent.parent / "docs"


@pytest.mark.slow
@pytest.mark.parametrize("page", sorted(path.name for path in DOCS.glob("tutorial-*.md")))
def test_this_page_can_be_followed(page: str, tmp_path: Path) -> None:
    with Reader(DOCS / page, tmp_path) as reader:
        reader.follow()
