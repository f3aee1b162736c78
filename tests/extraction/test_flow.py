"""Batches through networks: together on all processors, or side by side while the process is short of them."""

import threading
from collections.abc import Callable
from dataclasses import replace
from itertools import cycle

import pytest

from cache import digest_bytes, parse_source
from stages.extraction import Backbone, PreprocessConfig, TimmConfig, load_backbone
from stages.extraction.backbones.frozen import Network
from stages.extraction.embedder import Features, Pixels
from stages.extraction.flow import Batch, Clock, Shortage, flow
from stages.processes import processors
from tests.pictures import draw_folder

_BATCH = 32


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return load_backbone(TimmConfig("test_resnet", weights="random", preprocess=PreprocessConfig(size=64)))


@pytest.fixture(scope="module")
def batches(tmp_path_factory: pytest.TempPathFactory) -> list[Batch]:
    """Five whole ones, of which the second has 15 images that can be read, and one of 7."""
    folder = draw_folder(tmp_path_factory.mktemp("images"), {"a": 5 * _BATCH + 7})
    paths = sorted(folder.rglob("*.png"))
    for path in paths[_BATCH : 2 * _BATCH - 15]:
        path.write_bytes(b"no image " + path.name.encode())
    digests = [digest_bytes(path.read_bytes()) for path in paths]
    return [
        Batch(digests[low : low + _BATCH], [parse_source(str(path)) for path in paths[low : low + _BATCH]], [])
        for low in range(0, len(paths), _BATCH)
    ]


def _through(
    batches: list[Batch], backbone: Backbone, short: Callable[[], bool]
) -> tuple[list[tuple[list[bytes], bytes]], set[tuple[str, int]]]:
    """What came out, in order, and who computed batches of how many images."""
    inner = backbone.forward
    ran: set[tuple[str, int]] = set()

    def noted(pixels: Pixels) -> Features:
        ran.add((threading.current_thread().name.partition("_")[0], len(pixels)))
        return inner(pixels)

    watched = replace(backbone, forward=Network(lambda device: [], "cpu", [], noted))
    given = iter([batch._replace(backbones=[watched]) for batch in batches])
    done = list(flow(given, workers=2, clock=Clock(), short=short))
    return [([*one.batch.digests], one.features[0].tobytes()) for one in done], ran


def test_batches_side_by_side_have_the_bits_of_those_computed_together(
    batches: list[Batch], backbone: Backbone
) -> None:
    caller = threading.current_thread().name.partition("_")[0]
    together, ran = _through(batches, backbone, lambda: False)
    assert ran == {(caller, _BATCH), (caller, 15), (caller, 7)}
    apart, ran = _through(batches, backbone, lambda: True)
    assert ran == {("network" if processors() > 1 else caller, _BATCH), (caller, 15), (caller, 7)}
    now_and_then = cycle([True, False, False])
    mixed, _ = _through(batches, backbone, lambda: next(now_and_then))
    assert [digests for digests, _ in together] == [[*batch.digests] for batch in batches]
    assert apart == together
    assert mixed == together


def test_a_shortage_begins_below_two_thirds_of_the_processors_and_ends_above_four_fifths() -> None:
    now = own = 0.0
    shortage = Shortage(lambda: now, lambda: own)
    seen = []
    for used in (0.7, 0.6, 0.7, 0.9, 0.7):
        now, own = now + 4, own + 4 * used * processors()
        seen.append(shortage())
    assert seen == [False, True, True, False, False]
    now += 2
    assert not shortage(), "it is measured over three seconds"
