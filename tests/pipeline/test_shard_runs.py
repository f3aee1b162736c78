"""Whole runs on images that lie in tar shards and Parquet files, beside the same images in a folder."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from cache import ImageSource, parse_source
from pipeline.views.contact_sheet import Neighbour, SheetRow, draw_contact_sheet
from stages.datasets import FolderConfig, ParquetConfig, WebDatasetConfig
from stages.extraction import decode
from stages.records import read_records
from tests.pictures import draw_folder
from tests.typed import RUN, permafrost

DATASETS = {
    "folder": 'kind = "folder"\npath = "images"',
    "tar": 'kind = "webdataset"\npath = "shards"\nlabel = "name"',
    "parquet": 'kind = "parquet"\npath = "tables/*.parquet"\nlabel = "label"',
}
PCA = '[[backbones]]\nkind = "pca"\ndim = 4\nsize = 8\n'


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same images three times over, with a run file for each; the first of them run on the shards."""
    folder = tmp_path_factory.mktemp("runs")
    draw_folder(folder / "images", {f"class {number}": 6 for number in range(12)})
    rows = [
        (path.relative_to(folder / "images").as_posix(), path.parent.name, path.read_bytes())
        for path in sorted((folder / "images").rglob("*.png"))
    ]
    for name in ("shards", "tables"):
        (folder / name).mkdir()
    for part in range(3):
        with tarfile.open(folder / f"shards/{part:05}.tar", "w") as file:
            for key, label, content in rows[part::3]:
                for suffix, held in (("png", content), ("json", json.dumps({"name": label}).encode())):
                    entry = tarfile.TarInfo(f"{key.removesuffix('.png')}.{suffix}")
                    entry.size = len(held)
                    file.addfile(entry, io.BytesIO(held))
        images = [{"bytes": content, "path": key} for key, _, content in rows[part::3]]
        table = pa.table({"image": images, "label": [label for _, label, _ in rows[part::3]]})
        pq.write_table(table, folder / f"tables/all-{part:05}-of-00003.parquet", row_group_size=7)
    for name, dataset in DATASETS.items():
        head, tail = RUN.replace('kind = "folder"\npath = "images"', dataset), PCA
        (folder / f"{name}.toml").write_text(head)
        backbones = head[head.index("[[backbones]]") : head.index("[[heads]]")]
        pca = head.replace(backbones, tail).replace('artifacts = "artifacts"', f'artifacts = "artifacts-{name}"')
        (folder / f"pca-{name}.toml").write_text(pca)
    done = permafrost("run", "tar.toml", "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert (folder / "artifacts/scores/tar.png").exists()
    return folder


@pytest.mark.slow
def test_the_same_images_in_another_place_compute_nothing(folder: Path) -> None:
    for name in DATASETS:
        done = permafrost("extract", f"{name}.toml", "--json", cwd=folder)
        assert done.returncode == 0, done.stderr
        line = json.loads(done.stdout)
        assert (line["computed"], line["present"], line["failed"]) == (0, 72, 0)


@pytest.mark.slow
def test_an_image_is_searched_for_by_its_uri(folder: Path) -> None:
    config = WebDatasetConfig(path=str(folder / "shards"), label="name")
    uri = read_records(config).uris[5]
    done = permafrost("search", "tar.toml", uri, "--all", "-k", "1", "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["image"] == uri
    assert uri == ImageSource(str(folder / parse_source(result["uri"]).path), parse_source(result["uri"]).stretch).uri
    assert result["similarity"] > 0.999
    cut = permafrost("search", "tar.toml", f"box:900,0,901,1:{uri}", cwd=folder)
    assert cut.returncode == 1
    assert "the box 900,0,901,1 holds nothing of 40 x 32 pixels" in cut.stderr


@pytest.mark.slow
def test_components_fitted_to_images_in_parquet_are_those_of_the_files(folder: Path) -> None:
    done = [permafrost("extract", f"pca-{name}.toml", "--json", cwd=folder) for name in ("folder", "parquet")]
    assert [item.returncode for item in done] == [0, 0], done
    one, other = (json.loads(item.stdout) for item in done)
    assert one["features"] == other["features"]
    assert other["computed"] == 72


def test_a_contact_sheet_shows_images_from_shards_cells_and_boxes(folder: Path, tmp_path: Path) -> None:
    uris = {
        name: read_records(config).uris[0]
        for name, config in (
            ("tar", WebDatasetConfig(path=str(folder / "shards"), label="name")),
            ("parquet", ParquetConfig(path=str(folder / "tables"), label="label")),
            ("file", FolderConfig(path=str(folder / "images"))),
        )
    }
    sheets = [
        np.asarray(Image.open(draw_contact_sheet(tmp_path / f"{name}.png", [row], title="t")))
        for name, uri in uris.items()
        for row in [SheetRow(uri, "q", {"raw": [Neighbour(f"box:4,4,20,20:{uri}", True, 0.5)]})]
    ]
    assert len({sheet.tobytes() for sheet in sheets}) == 1
    whole = decode(Path(uris["file"]).read_bytes())
    cut = tmp_path / "cut.png"
    Image.fromarray(whole[4:20, 4:20]).save(cut)
    row = SheetRow(uris["file"], "q", {"raw": [Neighbour(str(cut), True, 0.5)]})
    np.testing.assert_array_equal(
        np.asarray(Image.open(draw_contact_sheet(tmp_path / "w.png", [row], title="t"))), sheets[0]
    )
