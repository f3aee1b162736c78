"""Refuse to start on another project's ``cache`` or ``stages``: both names are common."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

_HOME = Path(__file__).resolve().parent.parent


def check_siblings() -> None:
    """Raise ImportError when a sibling package would come from another installation."""
    for name in ("cache", "stages"):
        spec = find_spec(name)
        origin = Path(spec.origin).resolve() if spec and spec.origin else None
        if origin != _HOME / name / "__init__.py":
            raise ImportError(
                f"'import {name}' finds {origin}, not {_HOME / name}: another file or distribution has the same name. "
                "Rename or uninstall it, run python with -P, or install Permafrost into an environment of its own."
            )
