from dataclasses import replace
from pathlib import Path

from stages.extraction import extract, plan_extraction
from tests.pictures import draw, draw_folder
from tests.toys.extraction import never, records_of, toy_backbone
from tests.toys.stores import contents


def test_a_plan_counts_what_is_missing_and_writes_nothing(tmp_path: Path) -> None:
    images = draw_folder(tmp_path / "images", {"a": 9, "b": 8})
    (images / "a/bad.png").write_bytes(b"no image")
    store = extract(records_of(images), toy_backbone(), tmp_path / "features", chunk_rows=4)
    for number in range(5):
        draw(images / f"c/{number}.png", 900 + number)
    before = contents(store.path)
    plan = plan_extraction(
        records_of(images), [toy_backbone(), toy_backbone(other=1)], tmp_path / "features", sample_seconds=0.0
    )
    first, second = plan.backbones
    assert (first.todo, first.failed, first.present) == (5, 1, 17)
    assert first.bytes_now == sum(path.stat().st_size for path in store.path.rglob("*") if path.is_file())
    assert (
        first.bytes_more == 4 * 12 * 2
    )  # two go into the chunk that has room, three into one of four rows of twelve float16
    assert (second.todo, second.failed, second.present, second.bytes_now) == (23, 0, 0, 0)
    assert plan.images == 23
    assert plan.seconds > 0
    assert contents(store.path) == before
    assert [path.name for path in (tmp_path / "features").iterdir() if path.is_dir()] == [store.path.name]


def test_a_plan_of_nothing_opens_nothing(tmp_path: Path) -> None:
    images = draw_folder(tmp_path / "images", {"a": 4})
    extract(records_of(images), toy_backbone(), tmp_path / "features")

    plan = plan_extraction(records_of(images), [replace(toy_backbone(), forward=never)], tmp_path / "features")
    assert (plan.images, plan.seconds, plan.backbones[0].todo) == (0, 0.0, 0)
