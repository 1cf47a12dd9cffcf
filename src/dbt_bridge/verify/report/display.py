"""Values of a database, written for people: nothing in them acts on the reader's screen, and no two look the same.

Most values stand as they are. Those that would mislead stand in double quotes, with Python's escapes for what cannot be
seen: the empty text, one that begins or ends with a space, the text NULL (the value NULL has no quotes), control and
direction characters. Two values that differ only in how Unicode writes the same signs are both written in ASCII.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping

from dbt_bridge.nouns.both import Both

NULL, MASKED = "NULL", "(masked)"
_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t", "\\": "\\\\", '"': '\\"'}


def format_value(value: str | None, width: int) -> str:
    """One value, of which at most `width` characters are shown."""
    if value is None:
        return NULL
    return _format_piece(value, 0, width, ascii_only=False)


def format_both(values: Both[str | None], width: int) -> Both[str]:
    """Two values that differ. Of long ones the place where they begin to differ is shown."""
    origin, destination = values
    if origin is None or destination is None:
        return values.map(lambda value: format_value(value, width))
    longest = max(len(origin), len(destination))
    start = 0
    if longest > width:
        start = max(0, min(_first_difference(origin, destination) - width // 4, longest - width))
    shown = Both(origin, destination).map(lambda text: _look(text[start : start + width]))
    ascii_only = origin != destination and shown.origin == shown.destination
    return Both(origin, destination).map(lambda text: _format_piece(text, start, width, ascii_only=ascii_only))


def format_row(values: Mapping[str, str | None], width: int, most: int = 6) -> str:
    """`id = 7, region = "eu "`: the first columns and their values."""
    parts = [f"{format_name(column)} = {format_value(value, width)}" for column, value in list(values.items())[:most]]
    if (more := len(values) - most) > 0:
        parts.append(f"and {more} more")
    return ", ".join(parts)


def format_name(text: str) -> str:
    """A name, or a short text of the bridge's own: as it is, but for characters that act on a screen."""
    return "".join(char if char.isprintable() else _escape(char) for char in text)


def format_message(text: str) -> str:
    """A text of several lines, as errors are."""
    return "\n".join(format_name(line) for line in text.split("\n"))


def format_count(number: int | None) -> str:
    """`1,000`; `-` where it is not known."""
    return "-" if number is None else f"{number:,}"


def _format_whole(text: str, *, ascii_only: bool = False) -> str:
    plain = text.isprintable() and text == text.strip() and not text.startswith(('"', "…"))
    return text if plain and not ascii_only and text not in ("", NULL, MASKED) else _quote(text, ascii_only=ascii_only)


def _format_piece(text: str, start: int, width: int, *, ascii_only: bool) -> str:
    if len(text) <= start + width and start == 0:
        return _format_whole(text, ascii_only=ascii_only)
    before, after = "…" if start else "", "…" if len(text) > start + width else ""
    piece = _quote(text[start : start + width], ascii_only=ascii_only)
    return f"{before}{piece}{after} ({len(text):,} characters)"


def _quote(text: str, *, ascii_only: bool) -> str:
    return '"' + "".join(_quote_character(char, ascii_only=ascii_only) for char in text) + '"'


def _quote_character(char: str, *, ascii_only: bool) -> str:
    if char in _SHORT:
        return _SHORT[char]
    return char if char.isprintable() and (char.isascii() or not ascii_only) else _escape(char)


def _escape(char: str) -> str:
    point = ord(char)
    if char in _SHORT:
        return _SHORT[char]
    return f"\\x{point:02x}" if point < 0x100 else f"\\u{point:04x}" if point < 0x10000 else f"\\U{point:08x}"


def _look(text: str) -> str:
    """What a reader sees: composed and decomposed signs, and those of compatibility, look the same (UAX #15)."""
    return unicodedata.normalize("NFKC", "".join(char for char in text if unicodedata.category(char) != "Cf"))


def _first_difference(one: str, other: str) -> int:
    low, high = 0, min(len(one), len(other))
    while low < high:  # slices are compared in C, characters one by one are not
        middle = (low + high + 1) // 2
        low, high = (middle, high) if one[low:middle] == other[low:middle] else (low, middle - 1)
    return low
