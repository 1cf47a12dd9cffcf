"""Paths of database files."""

from __future__ import annotations

from pathlib import Path


def make_absolute(path: str) -> str:
    """A DuckDB file from the working directory, as dbt-duckdb opens it; what is no file stays."""
    if path.startswith((":memory:", "md:", "motherduck:", "ducklake:")) or "://" in path:
        return path
    return str(Path(path).absolute())
