"""What the old rows of changes tell of the new ones."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa

from dbt_bridge.arrow.vectors import to_arrow
from dbt_bridge.nouns.changes import Changes


def with_values_before(changes: Changes) -> Changes:
    """The same changes with the values that only their old rows brought: those of a key that is stored out of line,
    and all of REPLICA IDENTITY FULL."""
    before, has_before = changes.before, changes.has_before
    if before is None or has_before is None:
        return changes
    rows, unchanged = changes.rows, dict(changes.unchanged)
    for name in [name for name in unchanged if name in before.column_names]:
        known = unchanged[name] & has_before
        if not known.any():
            continue
        place = np.arange(len(changes))
        both = pa.chunked_array([*rows[name].chunks, *before[name].chunks], rows[name].type)
        filled = both.take(to_arrow(np.where(known, place + len(changes), place)))
        rows = rows.set_column(rows.column_names.index(name), rows.schema.field(name), filled)
        unchanged[name] = unchanged[name] & ~known
        if not unchanged[name].any():
            del unchanged[name]
    return replace(changes, rows=rows, unchanged=unchanged)
