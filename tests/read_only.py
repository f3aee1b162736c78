"""Folders that are really to be read alone."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Nothing can be written below ``folder``: a mount of its own for root, whom modes do not bind."""
    if os.geteuid():
        paths = [folder, *folder.rglob("*")]
        modes = {path: path.stat().st_mode for path in paths}
        for path in paths:
            path.chmod(modes[path] & ~0o222)
        try:
            yield
        finally:
            for path, mode in modes.items():
                path.chmod(mode)
        return
    mounted = [["mount", "--bind", str(folder), str(folder)], ["mount", "-o", "remount,ro,bind", str(folder)]]
    for place, command in enumerate(mounted):
        if (done := subprocess.run(command, capture_output=True, text=True, check=False)).returncode:
            if place:
                subprocess.run(["umount", str(folder)], check=True)
            pytest.skip(f"root is not bound by modes, and a mount cannot be had: {done.stderr}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
