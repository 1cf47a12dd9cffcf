"""Names in lines of YAML that messages print: what stands there is read back as the name."""

from __future__ import annotations

import json
import re

_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_WORDS = {"y", "n", "yes", "no", "on", "off", "true", "false", "null"}
"""What YAML 1.1 reads as something else than text."""


def quote_in_yaml(name: str) -> str:
    """The name, in quotes where it needs them."""
    is_plain = _PLAIN.fullmatch(name) and name.lower() not in _WORDS
    return name if is_plain else json.dumps(name, ensure_ascii=False)
