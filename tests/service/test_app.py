"""Answers over HTTP: equal to what NumPy computes from the same vectors; what cannot be answered is refused clearly."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from fastapi import FastAPI
from PIL import Image

from pipeline.service.app import create_app
from pipeline.service.gallery import Gallery
from pipeline.service.limits import Limits, Refused
from pipeline.service.snapshots import Snapshots
from tests.service.serving import COLOURS, ask, draw_gallery, embedder, first_three, gallery_of, picture

LIMITS = Limits(max_bytes=50_000, max_pixels=10_000, body_seconds=0.2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gallery")


@pytest.fixture(scope="module")
def gallery(folder: Path) -> Gallery:
    return gallery_of(folder, draw_gallery(folder), thresholds={"fpir 0.1": 0.8})


@pytest.fixture(scope="module")
def app(gallery: Gallery) -> Iterator[FastAPI]:
    app = create_app(Snapshots(lambda: gallery, on_change=print), limits=LIMITS)
    yield app
    app.state.close()


def vectors(gallery: Gallery, head: int) -> npt.NDArray[np.float64]:
    searcher = gallery.heads[head].searcher
    keys = searcher.gallery.table["key"].to_pylist()
    return searcher.vectors_of(keys).astype(np.float64)


def keys(gallery: Gallery) -> list[str]:
    return list(gallery.heads[0].searcher.gallery.table["key"].to_pylist())


def matches(app: FastAPI, path: str, **settings: Any) -> list[dict[str, Any]]:
    answer = ask(app, "POST" if settings else "GET", path, **settings)
    assert answer.status_code == 200, answer.text
    (result,) = answer.json()["results"]
    return list(result["matches"])


def refusal(app: FastAPI, status: int, method: str, path: str, **settings: Any) -> str:
    """The code of the error, whose body is what the documents say."""
    answer = ask(app, method, path, **settings)
    assert answer.status_code == status, answer.text
    assert set(answer.json()) == {"error"}
    assert set(answer.json()["error"]) == {"code", "message"}
    assert answer.json()["error"]["message"]
    return str(answer.json()["error"]["code"])


def test_a_key_finds_the_nearest_by_the_head_that_is_named_and_never_itself(app: FastAPI, gallery: Gallery) -> None:
    for number, name in enumerate(("half", "raw")):
        rows, names = vectors(gallery, number), keys(gallery)
        similarity = rows @ rows[7]
        similarity[7] = -2
        wanted = np.argsort(-similarity, kind="stable")[:5]
        got = matches(app, f"/search?key={names[7]}&k=5&head={name}")
        assert [match["key"] for match in got] == [names[row] for row in wanted]
        assert [match["rank"] for match in got] == [1, 2, 3, 4, 5]
        assert np.allclose([match["similarity"] for match in got], similarity[wanted], atol=1e-5)


def test_an_image_finds_itself_sent_as_a_body_and_in_a_form(app: FastAPI, gallery: Gallery, folder: Path) -> None:
    key = keys(gallery)[3]
    content = (folder / key).read_bytes()
    for settings in ({"content": content}, {"files": {"image": ("x.png", content)}}):
        (match,) = matches(app, "/search?k=1", **settings)
        assert match == {
            "rank": 1,
            "key": key,
            "similarity": pytest.approx(1, abs=1e-4),
            "label": "class 3",
            "domain": None,
            "attributes": {"colour": "red"},
            "image": "/images/class%203/3.png",
        }
        assert ask(app, "GET", match["image"]).headers["content-type"] == "image/jpeg"


def test_heads_are_answered_side_by_side_best_first(app: FastAPI, folder: Path, gallery: Gallery) -> None:
    content = (folder / keys(gallery)[3]).read_bytes()
    answer = ask(app, "POST", "/search?head=*&k=4", content=content).json()
    assert [result["head"] for result in answer["results"]] == ["pixels/half", "pixels/raw"]
    for result in answer["results"]:
        assert result["matches"] == matches(app, f"/search?head={result['head']}&k=4", content=content)
    assert [result["head"] for result in ask(app, "GET", f"/search?key={keys(gallery)[0]}").json()["results"]] == [
        "pixels/half"
    ]


def test_pages_follow_one_another_and_say_when_there_are_no_more(app: FastAPI, gallery: Gallery) -> None:
    path = f"/search?key={keys(gallery)[0]}"
    whole = matches(app, f"{path}&k=100")
    assert len(whole) == 29
    paged = []
    for offset in range(0, 29, 10):
        answer = ask(app, "GET", f"{path}&k=10&offset={offset}").json()["results"][0]
        paged += answer["matches"]
        assert answer["more"] == (offset < 19)
    assert paged == whole
    assert matches(app, f"{path}&offset=500") == []


def test_filters_leave_what_has_one_of_the_values_in_each_column(app: FastAPI, gallery: Gallery) -> None:
    path = f"/search?key={keys(gallery)[0]}&k=100"
    whole = matches(app, path)
    got = matches(app, f"{path}&where=colour=red&where=colour=blue&where=label=class 1")
    assert got
    assert [match["key"] for match in got] == [
        match["key"]
        for match in whole
        if match["attributes"]["colour"] in ("red", "blue") and match["label"] == "class 1"
    ]
    assert [match["rank"] for match in got] == list(range(1, len(got) + 1))


def test_an_embedding_is_the_searchers_own(app: FastAPI, gallery: Gallery, folder: Path) -> None:
    content = (folder / keys(gallery)[3]).read_bytes()
    answer = ask(app, "POST", "/embed?head=*", content=content).json()
    for result, head in zip(answer["results"], (first_three, None), strict=True):
        wanted = embedder(head).embed([content]).vectors[0].astype(np.float64)
        assert np.allclose(result["vector"], wanted / np.linalg.norm(wanted), atol=1e-5)


def test_the_gallery_says_what_can_be_asked(app: FastAPI) -> None:
    reported = ask(app, "GET", "/gallery").json()
    assert reported["images"] == 30
    assert [head["name"] for head in reported["heads"]] == ["pixels/half", "pixels/raw"]
    assert reported["heads"][0]["thresholds"] == {"fpir 0.1": 0.8}
    assert reported["filters"]["colour"] == {"count": 3, "values": sorted(COLOURS)}
    assert len(reported["examples"]) == 24


@pytest.mark.parametrize(
    ("status", "code", "path"),
    [
        (422, "bad_request", "/search?key=class 0/0.png&k=0"),
        (422, "bad_request", "/search?key=class 0/0.png&k=-3"),
        (422, "bad_request", "/search?key=class 0/0.png&k=1001"),
        (422, "bad_request", "/search?key=class 0/0.png&k=many"),
        (422, "bad_request", "/search?key=class 0/0.png&offset=-1"),
        (422, "bad_request", "/search?key=class 0/0.png&colour=red"),
        (422, "bad_request", "/search?key="),
        (422, "one_query", "/search"),
        (422, "one_query", "/search?key=class 0/0.png&text=red"),
        (422, "no_text", "/search?text=red"),
        (404, "unknown_key", "/search?key=nobody"),
        (404, "unknown_key", "/images/nobody.png"),
        (404, "unknown_key", "/images/..%2F..%2F..%2Fetc%2Fpasswd"),
        (404, "unknown_key", "/images/%2Fetc%2Fpasswd"),
        (404, "unknown_head", "/search?key=class 0/0.png&head=best"),
        (422, "bad_filter", "/search?key=class 0/0.png&where=size=3"),
        (422, "bad_filter", "/search?key=class 0/0.png&where=colour=mauve"),
        (422, "bad_filter", "/search?key=class 0/0.png&where=colour"),
        (422, "bad_request", "/images/class 0/0.png?side=100000"),
        (404, "no_such_path", "/docs"),
    ],
)
def test_what_cannot_be_asked_is_refused(app: FastAPI, status: int, code: str, path: str) -> None:
    assert refusal(app, status, "GET", path) == code


def test_an_unknown_parameter_is_answered_with_those_that_there_are(app: FastAPI) -> None:
    for path, there in (("/search?key=class 0/0.png&fpr=0.1", "where"), ("/embed?key=class 0/0.png&fpr=0.1", "head")):
        message = ask(app, "GET" if "search" in path else "POST", path).json()["error"]["message"]
        assert message.startswith("fpr: there is no such parameter; there are key, text, head")
        assert message.endswith(f" {there}")


def test_an_fmr_leaves_the_matches_of_its_threshold(folder: Path, app: FastAPI) -> None:
    names = draw_gallery(folder)
    path = f"/search?key={names[0]}&k=100"
    whole = matches(app, path)
    least = whole[9]["similarity"] - 1e-5
    limited = create_app(
        Snapshots(lambda: gallery_of(folder, names, thresholds={"fmr 0.001": least, "fpir 0.1": 0.1}), on_change=print)
    )
    assert matches(limited, f"{path}&fmr=0.001") == whole[:10]
    assert ask(limited, "GET", f"{path}&fmr=0.001").json()["results"][0]["more"] is False
    answer = ask(limited, "GET", f"{path}&fmr=0.01").json()["error"]
    assert (answer["code"], "there is one for fmr 0.001, fpir 0.1" in answer["message"]) == ("no_threshold", True)
    assert refusal(limited, 422, "GET", f"{path}&fmr=2") == "bad_request"
    limited.state.close()


def test_the_picture_of_a_file_that_was_replaced_is_not_shown(tmp_path: Path) -> None:
    name, *others = draw_gallery(tmp_path)
    own = gallery_of(tmp_path, [name, *others])
    assert isinstance(own.picture(name, 64), bytes)
    (tmp_path / name).write_bytes((tmp_path / others[0]).read_bytes())
    refused = own.picture(name, 64)
    assert isinstance(refused, Refused)
    assert (refused.code, refused.message.endswith("it has changed since it was embedded")) == ("no_picture", True)


def test_an_fmr_of_pairs_of_images_is_refused_for_words(folder: Path) -> None:
    reading = gallery_of(folder, draw_gallery(folder), thresholds={"fmr 0.001": 0.5}, words=True)
    app = create_app(Snapshots(lambda: reading, on_change=print))
    assert len(matches(app, "/search?text=red mug&k=5")) == 5
    answer = ask(app, "GET", "/search?text=red mug&k=5&fmr=0.001")
    assert answer.status_code == 422
    error = answer.json()["error"]
    assert (error["code"], "measured on pairs of images" in error["message"]) == ("no_threshold", True)
    app.state.close()


def test_of_a_mistyped_filter_the_nearest_is_told(app: FastAPI) -> None:
    for where, near in (("color=red", "colour"), ("colour=gren", "green")):
        message = ask(app, "GET", f"/search?key=class 0/0.png&where={where}").json()["error"]["message"]
        assert f"did you mean '{near}'?" in message


def bomb(side: int) -> bytes:
    """A PNG that says it has ``side`` x ``side`` pixels, and has none."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("status", "code", "content"),
    [
        (400, "no_image", b""),
        (415, "no_image_type", b"text"),
        (415, "no_image_type", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"),
        (415, "no_image_type", b"<svg xmlns='http://www.w3.org/2000/svg'/>"),
        (422, "bad_image", picture()[:60]),
        (422, "bad_image", b"\xff\xd8\xff" + b"\0" * 99),
        (413, "too_many_bytes", b"\xff\xd8\xff" + b"\0" * 60_000),
        (413, "too_many_pixels", bomb(101)),
        (413, "too_many_pixels", bomb(30_000)),
        (413, "too_many_pixels", bomb(2**31 - 1)),
    ],
)
def test_what_is_no_usable_image_is_refused_as_a_body_and_in_a_form(
    app: FastAPI, status: int, code: str, content: bytes
) -> None:
    assert refusal(app, status, "POST", "/search", files={"image": ("x.jpg", content)}) == code
    body = {"content": content, "headers": {"transfer-encoding": "chunked"} if not content else {}}
    assert refusal(app, status, "POST", "/embed", **body) == code


def test_an_image_of_just_so_many_pixels_is_answered(app: FastAPI) -> None:
    assert matches(app, "/search?k=1", content=picture(size=(100, 100)))
    assert refusal(app, 413, "POST", "/search", content=picture(size=(101, 100))) == "too_many_pixels"


@pytest.mark.parametrize(
    ("settings", "code"),
    [
        ({"files": {"picture": ("x.png", picture())}}, "no_image"),
        ({"data": {"image": "text"}, "files": {"other": ("x.png", b"")}}, "no_image"),
        ({"content": b"--x\r\nnothing", "headers": {"content-type": "multipart/form-data; boundary=x"}}, "no_image"),
        ({"content": b"nothing", "headers": {"content-type": "multipart/form-data"}}, "no_form"),
        ({"files": [("image", ("x.png", picture())), ("image", ("y.png", picture()))]}, "no_form"),
    ],
)
def test_a_form_that_is_none_is_refused(app: FastAPI, settings: dict[str, Any], code: str) -> None:
    assert refusal(app, 400, "POST", "/search", **settings) == code


def test_an_image_beside_a_key_and_neither_are_refused(app: FastAPI) -> None:
    assert refusal(app, 400, "POST", "/search?key=class 0/0.png", content=picture()) == "one_query"
    assert refusal(app, 400, "POST", "/search") == "one_query"


def test_an_upload_that_does_not_come_is_waited_for_a_while(app: FastAPI) -> None:
    import asyncio

    async def slowly() -> Any:
        yield b"\xff\xd8\xff"
        await asyncio.sleep(5)
        yield b"\0"

    assert refusal(app, 408, "POST", "/search", content=slowly()) == "slow_upload"


def test_one_bad_image_of_a_batch_harms_no_other(gallery: Gallery, folder: Path) -> None:
    from pipeline.service.gallery import Upload, embed

    good = (folder / keys(gallery)[3]).read_bytes()
    uploads = [Upload(content, gallery.heads, LIMITS) for content in (good, picture()[:60], bomb(101), good)]
    first, cut, large, last = embed(uploads)
    assert isinstance(first, dict)
    assert isinstance(last, dict)
    assert all(np.array_equal(first[head], last[head]) for head in gallery.heads)
    assert [getattr(refused, "status", None) for refused in (cut, large)] == [422, 413]


def test_a_picture_is_small_and_is_not_sent_twice(app: FastAPI, gallery: Gallery) -> None:
    answer = ask(app, "GET", "/images/class 0/0.png?side=128")
    with Image.open(io.BytesIO(answer.content)) as image:
        assert max(image.size) <= 128
    again = ask(app, "GET", "/images/class 0/0.png?side=128", headers={"if-none-match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


def test_a_picture_whose_file_is_gone_is_said_to_be_none(tmp_path: Path) -> None:
    names = draw_gallery(tmp_path, 3)
    app = create_app(Snapshots(lambda: gallery_of(tmp_path, names), on_change=print))
    (tmp_path / names[0]).unlink()
    assert refusal(app, 404, "GET", f"/images/{names[0]}") == "no_picture"
    assert matches(app, f"/search?key={names[0]}&k=1")
    app.state.close()


def test_what_is_served_is_counted(app: FastAPI) -> None:
    ask(app, "GET", "/search?key=class 0/0.png")
    text = ask(app, "GET", "/metrics").text
    assert 'permafrost_requests_total{route="/search",status="200"}' in text
    assert "permafrost_gallery_images 30.0" in text
    assert 'permafrost_batch_size_count{queue="searches"}' in text
