"""What the checkpoint of a table with a cursor remembers beside the cursor: what rows that landed are told by."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from dbt_bridge.nouns.project import LandingTable

_FORMS = "forms"


@dataclass(frozen=True, slots=True)
class Remembered:
    """Where it is another now, rows that landed are not what they would be.

    Attributes:
        hides: what of the table does not land as it is; empty where all of it does.
        forms: see `Described.forms`; None in a checkpoint of an older version, which did not ask.
    """

    hides: str
    forms: Mapping[str, tuple[str, ...]] | None

    @classmethod
    def of_table(cls, table: LandingTable, forms: Mapping[str, tuple[str, ...]]) -> Remembered:
        said = [sorted(table.columns.include), sorted(table.columns.exclude), sorted(table.mask.items())]
        return cls(json.dumps(said, ensure_ascii=False) if any(said) else "", forms)

    @classmethod
    def of_text(cls, text: str) -> Remembered:
        """As `Checkpoint.filters` has it."""
        found = json.loads(text) if text else None
        if not isinstance(found, dict):
            return cls(text, None)
        return cls(found["hides"], {name: tuple(facts) for name, facts in found[_FORMS].items()})

    def as_text(self) -> str:
        return json.dumps({"hides": self.hides, _FORMS: self.forms or {}}, ensure_ascii=False)

    def goes_on(self, now: Remembered) -> bool:
        """Whether rows that landed so still read so. A type that no column has any more does not matter."""
        if self.hides != now.hides:
            return False
        there = now.forms or {}
        return all(set(facts) <= set(there.get(name, facts)) for name, facts in (self.forms or {}).items())


NOTHING = Remembered("", None)
