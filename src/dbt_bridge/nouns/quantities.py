"""Times and sizes as people write and read them: `10 minutes`, `500ms`, `10GB`; YAML and command line take the same."""

from __future__ import annotations

import re
from decimal import Decimal

_NUMBER = r"\d+(?:\.\d+)?"
_SECONDS: dict[str, Decimal | int] = {
    "millisecond": Decimal("0.001"), "ms": Decimal("0.001"), "second": 1, "s": 1, "minute": 60, "m": 60,
    "hour": 3600, "h": 3600, "day": 86400, "d": 86400, "week": 604800, "w": 604800,
}  # fmt: skip
_SPAN = re.compile(rf"({_NUMBER})\s*(?:(millisecond|second|minute|hour|day|week)s?|(ms|[smhdw]))")
_BYTES = {"": 1, "b": 1, "kb": 1 << 10, "mb": 1 << 20, "gb": 1 << 30, "tb": 1 << 40}  # as postgresql.conf counts
_SIZE = re.compile(rf"({_NUMBER})\s*([kmgt]?b)?")


def parse_duration(text: str) -> Decimal:
    """Seconds, exactly, of `90`, `0.5`, `10 minutes`, `1 hour 30 minutes`, `500ms`, `5m` or `1h30m`.

    Raises:
        ValueError: the text is no time.
    """
    text = text.strip().lower()
    if re.fullmatch(_NUMBER, text):
        return Decimal(text)
    spans = _SPAN.findall(text)
    if not spans or _SPAN.sub("", text).strip():
        raise ValueError(f"{text!r} is no time")
    return sum((Decimal(number) * _SECONDS[word or letters] for number, word, letters in spans), Decimal())


def parse_size(text: str) -> int:
    """Bytes of `1000`, `8kB`, `1.5 MB` or `10GB`, in units of 1024, as postgresql.conf counts.

    Raises:
        ValueError: the text is no size.
    """
    size = _SIZE.fullmatch(text.strip().lower())
    if size is None:
        raise ValueError(f"{text!r} is no size")
    return int(Decimal(size[1]) * _BYTES[size[2] or ""])


def format_bytes(size: float) -> str:
    """Bytes for people, decimal units as disks and networks have them: `1.2 MB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
