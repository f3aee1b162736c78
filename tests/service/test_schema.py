"""Requests made from the OpenAPI document: none is a server error, and each answer is one that the document names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from fastapi import FastAPI
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import response_schema_conformance, status_code_conformance

from pipeline.service.app import create_app
from pipeline.service.snapshots import Snapshots
from tests.service.serving import draw_gallery, gallery_of


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FastAPI]:
    folder = tmp_path_factory.mktemp("gallery")
    gallery = gallery_of(folder, draw_gallery(folder, 10))
    app = create_app(Snapshots(lambda: gallery, on_change=print))
    yield app
    app.state.close()


def test_no_request_is_a_server_error_and_every_answer_is_in_the_document(app: FastAPI) -> None:
    headers = {"host": "localhost"}
    schema = schemathesis.openapi.from_asgi("/openapi.json", app, headers=headers)
    operations = [each.ok() for each in schema.get_all_operations()]  # type: ignore[union-attr]
    assert {operation.path for operation in operations} >= {
        "/search",
        "/embed",
        "/images/{key}",
        "/gallery",
        "/session",
    }
    statuses: Counter[int] = Counter()
    for operation in operations:

        @given(case=operation.as_strategy())
        @settings(
            max_examples=25,
            deadline=None,
            database=None,
            derandomize=True,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        def check(case: Any) -> None:
            answer = case.call(headers=headers)
            statuses[answer.status_code] += 1
            case.validate_response(
                answer, checks=[not_a_server_error, status_code_conformance, response_schema_conformance]
            )

        check()
    assert statuses[200] > 5
    assert statuses[422] > 10
