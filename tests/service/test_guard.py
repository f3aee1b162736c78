"""Who may ask: this machine alone, or those who know the token; and what a browser may do with the answers."""

from __future__ import annotations

from pathlib import Path

import pytest
from fastapi import FastAPI

from pipeline.service.app import create_app
from pipeline.service.guard import COOKIE, is_loopback
from pipeline.service.snapshots import Snapshots
from tests.service.serving import ask, draw_gallery, gallery_of

TOKEN = "a token of 24 characters".replace(" ", "-")
ELSEWHERE = "http://photos.example.com"


@pytest.fixture(scope="module")
def apps(tmp_path_factory: pytest.TempPathFactory) -> dict[str, FastAPI]:
    folder = tmp_path_factory.mktemp("gallery")
    gallery = gallery_of(folder, draw_gallery(folder, 4))
    return {
        name: create_app(Snapshots(lambda: gallery, on_change=print), token=token)
        for name, token in (("open", None), ("locked", TOKEN))
    }


@pytest.mark.parametrize("path", ["/gallery", "/search?key=class 0/0.png", "/images/class 0/0.png", "/metrics", "/no"])
def test_what_is_of_the_gallery_wants_the_token(apps: dict[str, FastAPI], path: str) -> None:
    app = apps["locked"]
    for header in ({}, {"authorization": "Bearer wrong"}, {"authorization": TOKEN}, {"cookie": f"{COOKIE}={TOKEN}"}):
        answer = ask(app, "GET", path, headers=header)
        assert answer.status_code == 401
        assert answer.json()["error"]["code"] == "no_token"
    answer = ask(app, "GET", path, headers={"authorization": f"Bearer {TOKEN}", "host": "photos.example.com"})
    assert answer.status_code == (404 if path == "/no" else 200)


def test_the_page_and_the_probes_want_no_token(apps: dict[str, FastAPI]) -> None:
    for path in ("/", "/page.js", "/page.css", "/favicon.svg", "/healthz", "/readyz"):
        assert ask(apps["locked"], "GET", path).status_code == 200


def test_a_session_is_a_cookie_that_scripts_and_other_sites_cannot_use_and_that_does_not_hold_the_token(
    apps: dict[str, FastAPI],
) -> None:
    app = apps["locked"]
    assert ask(app, "POST", "/session").status_code == 401
    answer = ask(app, "POST", "/session", headers={"authorization": f"Bearer {TOKEN}"})
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert TOKEN not in cookie
    assert ask(app, "GET", "/gallery", headers={"cookie": cookie.partition(";")[0]}).status_code == 200


@pytest.mark.parametrize("header", [{"host": "photos.example.com"}, {"origin": ELSEWHERE}, {"origin": "null"}])
def test_without_a_token_no_other_name_and_no_other_page_is_answered(
    apps: dict[str, FastAPI], header: dict[str, str]
) -> None:
    answer = ask(apps["open"], "GET", "/gallery", headers=header)
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "other_host")
    assert ask(apps["open"], "GET", "/gallery", headers={"origin": "http://localhost:8000"}).status_code == 200


@pytest.mark.parametrize("path", ["/", "/gallery", "/images/class 0/0.png", "/nothing"])
def test_every_answer_allows_a_browser_nothing_from_elsewhere(apps: dict[str, FastAPI], path: str) -> None:
    headers = ask(apps["open"], "GET", path).headers
    policy = dict(part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";"))
    assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    assert all(set(value.split()) <= {"'self'", "'none'", "blob:"} for value in policy.values())
    assert headers["x-content-type-options"] == "nosniff"
    assert "access-control-allow-origin" not in headers


def test_the_page_names_nothing_from_elsewhere(apps: dict[str, FastAPI]) -> None:
    for path in ("/", "/page.js", "/page.css"):
        assert "//" not in ask(apps["open"], "GET", path).text.replace("http://www.w3.org/", "").replace("  //", "")


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("[::1]", True), ("localhost", True),
     ("0.0.0.0", False), ("::", False), ("192.168.1.4", False), ("localhost.example.com", False), ("", False)],
)  # fmt: skip
def test_loopback_is_this_machine_and_no_other(host: str, loopback: bool) -> None:
    assert is_loopback(host) == loopback


def test_the_gallery_is_not_opened_by_a_path(apps: dict[str, FastAPI], tmp_path: Path) -> None:
    secret = tmp_path / "secret.png"
    secret.write_bytes(b"secret")
    for key in (str(secret), f"%2F{str(secret)[1:].replace('/', '%2F')}", f"bytes:0+6:{secret}"):
        assert ask(apps["open"], "GET", f"/images/{key}").status_code == 404
