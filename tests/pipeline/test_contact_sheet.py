from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from cache import digest_bytes
from pipeline.views.contact_sheet import (
    FRAME,
    MISSING_COLOUR,
    RIGHT_COLOUR,
    TILE,
    WRONG_COLOUR,
    Neighbour,
    SheetRow,
    draw_contact_sheet,
)

BLUE, YELLOW = (20, 40, 230), (240, 220, 30)


@pytest.fixture
def photo(tmp_path: Path) -> str:
    Image.new("RGB", (60, 60), BLUE).save(tmp_path / "photo.png")
    return str(tmp_path / "photo.png")


def pixels(path: Path) -> npt.NDArray[np.uint8]:
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


def frames(sheet: npt.NDArray[np.uint8]) -> list[tuple[int, int, str]]:
    """(top, left, "right" or "wrong") of every TILE-sized outline of one colour, found by looking at each pixel."""
    outlines = []
    for name, colour in (("right", RIGHT_COLOUR), ("wrong", WRONG_COLOUR)):
        same = (sheet == colour).all(axis=-1)
        for top, left in np.argwhere(same):
            square = same[top : top + TILE, left : left + TILE]
            edges = square[:FRAME], square[-FRAME:], square[:, :FRAME], square[:, -FRAME:]
            if square.shape == (TILE, TILE) and all(edge.all() for edge in edges):
                outlines.append((int(top), int(left), name))
    return sorted(outlines)


def test_right_neighbours_are_framed_green_and_wrong_ones_red(photo: str, tmp_path: Path) -> None:
    raw = [Neighbour(photo, right, 0.9) for right in (True, False, False)]
    head = [Neighbour(photo, right, 0.9) for right in (True, True, False)]
    sheet = pixels(
        draw_contact_sheet(tmp_path / "s.png", [SheetRow(photo, "q", {"raw": raw, "head": head})], title="t")
    )
    seen = frames(sheet)
    assert [name for _, _, name in seen] == ["right", "wrong", "wrong", "right", "right", "wrong"]
    tops = [top for top, _, _ in seen]
    assert tops[0] == tops[1] == tops[2] < tops[3] == tops[4] == tops[5]
    assert [left for _, left, _ in seen[:3]] == [left for _, left, _ in seen[3:]]
    for top, left, _ in seen:
        inside = sheet[top + FRAME : top + TILE - FRAME, left + FRAME : left + TILE - FRAME]
        assert (inside == BLUE).all()


def test_the_marks_differ_in_shape_and_not_in_colour_alone(photo: str, tmp_path: Path) -> None:
    ranking = [Neighbour(photo, True, 0.5), Neighbour(photo, False, 0.5)]
    sheet = pixels(draw_contact_sheet(tmp_path / "s.png", [SheetRow(photo, "q", {"raw": ranking})], title="t"))
    (top, first, _), (_, second, _) = frames(sheet)
    below = slice(top + TILE, top + TILE + 20)
    tick, cross = ((sheet[below, left : left + 18] != 255).any(axis=-1) for left in (first, second))
    assert (tick != cross).mean() > 0.02


def test_a_thumbnail_keeps_its_proportions(tmp_path: Path) -> None:
    wide = tmp_path / "wide.png"
    Image.new("RGB", (400, 100), YELLOW).save(wide)
    row = SheetRow(str(wide), "q", {"raw": [Neighbour(str(wide), True, 1.0)]})
    sheet = pixels(draw_contact_sheet(tmp_path / "s.png", [row], title="t"))
    ((top, left, _),) = frames(sheet)
    shown = (sheet[top : top + TILE, left : left + TILE] == YELLOW).all(axis=-1)
    rows, columns = shown.any(axis=1).sum(), shown.any(axis=0).sum()
    assert columns == TILE - 2 * FRAME
    assert columns / rows == pytest.approx(4, rel=0.05)


@pytest.mark.parametrize("bad", ["absent", "not an image", "cut off", "a tar's member"])
def test_an_image_that_cannot_be_opened_is_a_grey_tile(bad: str, photo: str, tmp_path: Path) -> None:
    uri = tmp_path / "bad.jpg"
    if bad == "not an image":
        uri.write_text("words")
    if bad == "cut off":
        noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(noise).save(uri)
        uri.write_bytes(uri.read_bytes()[:900])
    name = "photos.tar#a/b.jpg" if bad == "a tar's member" else str(uri)
    row = SheetRow(name, "q", {"raw": [Neighbour(name, False, 0.1), Neighbour(photo, True, 0.1)]})
    sheet = pixels(draw_contact_sheet(tmp_path / "s.png", [row], title="t"))
    (top, left, _), (_, other, _) = frames(sheet)
    assert tuple(sheet[top + FRAME, left + FRAME]) == MISSING_COLOUR
    assert tuple(sheet[top + FRAME, other + FRAME]) == BLUE


def test_an_image_that_was_replaced_is_a_grey_tile(photo: str, tmp_path: Path) -> None:
    digests = {photo: digest_bytes(Path(photo).read_bytes())}
    row = SheetRow(photo, "q", {"raw": [Neighbour(photo, True, 0.5)]})
    for colour, tile in ((BLUE, BLUE), ((200, 0, 0), MISSING_COLOUR)):
        Image.new("RGB", (60, 60), colour).save(photo)
        sheet = pixels(draw_contact_sheet(tmp_path / "s.png", [row], title="t", digests=digests))
        ((top, left, _),) = frames(sheet)
        assert tuple(sheet[top + FRAME, left + FRAME]) == tile


@pytest.mark.parametrize("mode", ["L", "LA", "P", "CMYK", "I;16", "1"])
def test_images_of_any_mode_and_extreme_proportions_are_drawn(mode: str, tmp_path: Path) -> None:
    odd = tmp_path / "odd.tif"
    Image.new(mode, (900, 1)).save(odd)
    row = SheetRow(str(odd), "q", {"raw": [Neighbour(str(odd), True, 0.1)]})
    sheet = pixels(draw_contact_sheet(tmp_path / "s.png", [row], title="t"))
    ((top, left, _),) = frames(sheet)
    assert tuple(sheet[top + FRAME, left + FRAME]) == (255, 255, 255)


@pytest.mark.parametrize("text", ["", " ", "x" * 5000, "two\nlines\tand a tab", "\udcff", "日本語 🎸 עברית", "\0"])
def test_an_odd_text_is_drawn_within_its_room(text: str, photo: str, tmp_path: Path) -> None:
    def draw(text: str) -> npt.NDArray[np.uint8]:
        row = SheetRow(photo, text, {text: [Neighbour(photo, True, 0.1)]})
        return pixels(draw_contact_sheet(tmp_path / "s.png", [row], title=text))

    sheet, plain = draw(text), draw("plain")
    assert sheet.shape == plain.shape
    assert frames(sheet) == frames(plain)
    assert (sheet[:, :20] == 255).all()
    assert (sheet[:, -20:] == 255).all()


def test_rankings_of_unequal_length_fit_on_one_sheet(photo: str, tmp_path: Path) -> None:
    rows = [
        SheetRow(photo, "a", {"raw": [Neighbour(photo, True, 0.5)] * 9}),
        SheetRow(photo, "b", {"raw": [], "head": [Neighbour(photo, False, float("nan"))]}),
    ]
    seen = frames(pixels(draw_contact_sheet(tmp_path / "s.png", rows, title="t")))
    assert [name for _, _, name in seen] == ["right"] * 9 + ["wrong"]


def test_the_file_is_replaced_whole_in_a_folder_that_is_made(photo: str, tmp_path: Path) -> None:
    path = tmp_path / "new" / "sheet.png"
    row = SheetRow(photo, "q", {"raw": [Neighbour(photo, True, 0.5)]})
    assert draw_contact_sheet(path, [row], title="one") == path
    first = path.read_bytes()
    draw_contact_sheet(path, [row], title="two")
    assert path.read_bytes() != first
    assert list(path.parent.iterdir()) == [path]


def test_a_sheet_that_shows_the_same_is_left_and_any_other_is_drawn(photo: str, tmp_path: Path) -> None:
    copy, path = tmp_path / "copy.jpg", tmp_path / "s.png"
    copy.write_bytes(Path(photo).read_bytes())

    def drawn(title: str = "t", caption: str = "q", similarity: float = 0.5, right: bool = True) -> bool:
        """Whether the file is another than before."""
        before = path.stat().st_ino if path.exists() else None
        row = SheetRow(photo, caption, {"raw": [Neighbour(str(copy), right, similarity)]})
        draw_contact_sheet(path, [row], title=title)
        return path.stat().st_ino != before

    assert drawn()
    assert not drawn()
    for other in ({"title": "u"}, {"caption": "r"}, {"similarity": 0.25}, {"right": False}):
        assert drawn(**other)
        assert drawn()
    copy.unlink()
    assert drawn()
    Image.new("RGB", (90, 60), (255, 0, 0)).save(copy)
    assert drawn()
    path.write_bytes(b"no picture")
    assert drawn()
    assert not drawn()


@pytest.mark.parametrize("rows", [[], [SheetRow("x.jpg", "q", {})]])
def test_a_sheet_of_nothing_is_refused(rows: list[SheetRow], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one query, and at least one ranking"):
        draw_contact_sheet(tmp_path / "s.png", rows, title="t")
    assert not (tmp_path / "s.png").exists()
