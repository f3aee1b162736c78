"""``make check-gpu`` has no card to run on in these tests: its code runs on the CPU with tiny networks."""

import json
from pathlib import Path

import pytest
import torch

from benchmarks import check_gpu


def test_without_a_card_it_says_so_in_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert check_gpu.main(["--output", str(tmp_path / "gpu.json")]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    assert "a card: one NVIDIA card of compute capability 8.0" in printed.err
    assert not (tmp_path / "gpu.json").exists()


def test_what_is_lacking_is_listed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(check_gpu.NEEDS, "packages", {"torch": "torch", "no-such": "no_such_module"})
    assert check_gpu.main(["--device", "cpu", "--quick"]) == 1
    assert "the package no-such (No module named 'no_such_module')" in capsys.readouterr().err


@pytest.mark.slow
def test_every_check_passes_on_a_cpu_with_tiny_networks(tmp_path: Path) -> None:
    assert check_gpu.main(["--device", "cpu", "--quick", "--output", str(tmp_path / "gpu.json")]) == 0
    report = json.loads((tmp_path / "gpu.json").read_text())
    assert [check["passed"] for check in report["checks"]] == [True] * 6
    assert report["machine"]["device"] == "cpu"
    assert {"torch", "timm", "zarr"} <= set(report["versions"])
