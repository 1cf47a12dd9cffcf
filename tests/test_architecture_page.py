"""docs/architecture.md is true: its picture is the code's, and every file that it names is there."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "dbt_bridge"
PATH = re.compile(r"`((?:[\w.-]+/)+(?:\w+\.\w+)?)`")


def test_the_picture_is_drawn_from_the_code() -> None:
    drawer = _module(ROOT / "docs" / "draw_rooms.py")
    assert drawer.PICTURE.read_text(encoding="utf-8") == drawer.picture(), "make docs"


@pytest.mark.parametrize("page", ["docs/architecture.md", "CONTRIBUTING.md"])
def test_every_file_that_a_page_names_is_there(page: str) -> None:
    named = set(PATH.findall((ROOT / page).read_text(encoding="utf-8")))
    assert len(named) > 10
    missing = [path for path in named if not (ROOT / path).exists() and not (PACKAGE / path).exists()]
    assert sorted(missing) == []


def _module(file: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None and spec.loader is not None
    module = sys.modules[file.stem] = importlib.util.module_from_spec(spec)  # where dataclasses look for it
    spec.loader.exec_module(module)
    return module
