"""What is installed in this environment, without importing it, and where its user is at home."""

from __future__ import annotations

import os
import sys
from pathlib import Path

_NOT_INSTALLED = frozenset({"dbt_project.yml", "dbt_packages", "dbt_internal_packages"})
"""What a dbt project has in its own folder, which may be on the path."""


def find_home() -> Path:
    """The user's home; a folder that is not there for one who has none, such as a container's user without a name."""
    try:
        return Path.home()
    except RuntimeError:
        return Path("/nonexistent")


def list_installed(prefix: str) -> list[str]:
    """Modules and distributions on the path whose names begin so, sorted, each with the time of its installation.

    The name of a distribution has its version: `dbt_core-1.11.16.dist-info`.
    """
    found: set[str] = set()
    for place in sys.path:
        try:
            entries = list(os.scandir(place or "."))
        except OSError:
            continue
        for entry in entries:
            is_module = entry.name.startswith(prefix) and entry.name not in _NOT_INSTALLED
            if is_module and (entry.name.endswith(".py") or entry.is_dir()):  # not scripts, beside one that runs
                found.add(f"{entry.name} {entry.stat().st_mtime_ns}")
    return sorted(found)
