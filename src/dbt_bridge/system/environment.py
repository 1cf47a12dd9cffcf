"""What is installed in this environment, without importing it."""

from __future__ import annotations

import os
import sys


def list_distributions(prefix: str) -> list[str]:
    """The installed distributions whose names begin so, each with its version: `dbt_core-1.11.16`, sorted.

    One that is installed from its sources, to be edited, gets the time of its last installation with it: its version
    alone says little.
    """
    found: set[str] = set()
    for place in sys.path:
        try:
            entries = list(os.scandir(place or "."))
        except OSError:
            continue
        for entry in entries:
            if entry.name.startswith(prefix) and entry.name.endswith(".dist-info"):
                found.add(f"{entry.name.removesuffix('.dist-info')} {entry.stat().st_mtime_ns}")
    return sorted(found)
