"""Draws docs/img/rooms.svg: the rooms of the package in their layers (`make docs`); a test compares the two.

The layers are those that import-linter checks ([tool.importlinter] in pyproject.toml), the sentences are the
docstrings of the rooms: what is drawn is what the code is.
"""

from __future__ import annotations

import ast
import re
import textwrap
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "dbt_bridge"
PICTURE = ROOT / "docs" / "img" / "rooms.svg"

_WIDTH = 1180
_LEFT, _GAP, _PADDING = 34, 10, 12
_TITLE, _LINE = 20, 16
_CHARACTER = 6.7  # the mean width of one at 12 px, in a sans-serif font
_COLOURS = ("#2f4b7c", "#3b6ea5", "#4c8eb5", "#5aa7a7", "#6fae7f", "#a3a653", "#c98f3f", "#c46a4a", "#8d5a7b")


@dataclass(frozen=True, slots=True)
class Room:
    """A folder (or a file) of the package, what it says of itself, and the folders in it that are rooms too."""

    name: str
    sentence: str
    inside: tuple[Room, ...] = ()


def layers() -> list[list[Room]]:
    """The rooms that exist, from the one that knows all to the one that knows none."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    (declared,) = (contract["layers"] for contract in settings["contracts"] if contract["id"] == "layers")
    names = [[name.strip("() ") for name in re.split(r"[|:]", layer)] for layer in declared]
    found = [[room for name in layer if (room := _room(PACKAGE, name)) is not None] for layer in names]
    return [layer for layer in found if layer]


def _room(folder: Path, name: str) -> Room | None:
    if (folder / f"{name}.py").exists():
        return Room(f"{name}.py", _sentence(folder / f"{name}.py"))
    if not (folder / name / "__init__.py").exists():
        return None
    inside = sorted(path.parent for path in (folder / name).glob("*/__init__.py")) if name == "connectors" else []
    rooms = tuple(Room(path.name, _sentence(path / "__init__.py")) for path in inside)
    return Room(name, _sentence(folder / name / "__init__.py"), rooms)


def _sentence(file: Path) -> str:
    """The first sentence of a module's docstring."""
    text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    return re.split(r"(?<=[.!?])\s", " ".join(text.split()), maxsplit=1)[0].replace("`", "")


def picture() -> str:
    """The whole drawing, as SVG."""
    parts: list[str] = []
    top = 46
    for number, layer in enumerate(layers()):
        bottom = _draw_layer(parts, layer, top, _COLOURS[number % len(_COLOURS)])
        top = bottom + _GAP
    height = top + 8
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}"'
        ' font-family="Inter, Segoe UI, Helvetica, Arial, DejaVu Sans, sans-serif" font-size="12">'
        "<title>The rooms of dbt-bridge, in layers</title>"
        f'<rect width="{_WIDTH}" height="{height}" rx="10" fill="#ffffff"/>'
        f'<text x="{_LEFT}" y="28" font-size="13" fill="#5b6470">A room imports rooms below it, never one above or'
        " beside it. What is below knows nothing of what is above.</text>"
        f'<path d="M16 56 V{height - 24} m-5 -9 l5 9 l5 -9" fill="none" stroke="#9aa3ad" stroke-width="1.5"/>'
    )
    return "\n".join([head, *parts, "</svg>\n"])


def _draw_layer(parts: list[str], layer: Sequence[Room], top: int, colour: str) -> int:
    """One row of boxes of equal height; answers where it ends."""
    width = (_WIDTH - _LEFT - 20 - _GAP * (len(layer) - 1)) / len(layer)
    rows = [_wrapped(room.sentence, width) for room in layer]
    inner = max((_inner_height(room, width) for room in layer), default=0)
    height = _PADDING * 2 + _TITLE + _LINE * max(len(lines) for lines in rows) + inner - 6
    for place, (room, lines) in enumerate(zip(layer, rows, strict=True)):
        left = _LEFT + place * (width + _GAP)
        parts.append(_box(left, top, width, height, colour, opacity=0.13))
        parts += _words(room, lines, left, top, colour)
        if room.inside:
            below = top + _PADDING + _TITLE + _LINE * len(lines) + 4
            each = (width - 2 * _PADDING - _GAP * (len(room.inside) - 1)) / len(room.inside)
            for number, inside in enumerate(room.inside):
                x = left + _PADDING + number * (each + _GAP)
                parts.append(_box(x, below, each, inner - 8, colour, opacity=0.16))
                parts += _words(inside, _wrapped(inside.sentence, each), x, below, colour)
    return round(top + height)


def _inner_height(room: Room, width: float) -> int:
    if not room.inside:
        return 0
    each = (width - 2 * _PADDING - _GAP * (len(room.inside) - 1)) / len(room.inside)
    return 8 + _PADDING * 2 + _TITLE - 6 + _LINE * max(len(_wrapped(inside.sentence, each)) for inside in room.inside)


def _wrapped(text: str, width: float) -> list[str]:
    return textwrap.wrap(text, max(12, int((width - 2 * _PADDING) / _CHARACTER)))


def _box(left: float, top: float, width: float, height: float, colour: str, *, opacity: float) -> str:
    return (
        f'<rect x="{left:.1f}" y="{top:.1f}" width="{width:.1f}" height="{height:.1f}" rx="7" fill="{colour}"'
        f' fill-opacity="{opacity}" stroke="{colour}" stroke-opacity="0.55"/>'
    )


def _words(room: Room, lines: Sequence[str], left: float, top: float, colour: str) -> Iterator[str]:
    x, y = left + _PADDING, top + _PADDING + 9
    yield f'<text x="{x:.1f}" y="{y:.1f}" font-size="14" font-weight="600" fill="{colour}">{escape(room.name)}</text>'
    for number, line in enumerate(lines):
        yield f'<text x="{x:.1f}" y="{y + _TITLE + number * _LINE:.1f}" fill="#2b323a">{escape(line)}</text>'


if __name__ == "__main__":
    PICTURE.write_text(picture(), encoding="utf-8")
    print(f"wrote {PICTURE}")
