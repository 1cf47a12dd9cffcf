"""Runs of changes that were given one after the other, as one; and parts of them by LSN."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pyarrow as pa

from dbt_bridge.arrow.vectors import to_arrow
from dbt_bridge.nouns.changes import (
    Changes,
    Event,
    Reshaped,
    Truncated,
)


def join_runs(events: Iterable[Event]) -> list[Changes | Truncated]:
    """The events, those between two TRUNCATEs as one run, repairs as they are. All have the same columns."""
    runs: list[Changes | Truncated] = []
    waiting: list[Changes] = []
    for event in events:
        assert not isinstance(event, Reshaped), "runs before and after have other columns"
        if isinstance(event, Changes) and not event.repairs:
            waiting.append(event)
            continue
        runs += _one(waiting)
        waiting = []
        runs.append(event)
    return runs + _one(waiting)


def _one(runs: list[Changes]) -> list[Changes]:
    runs = [run for run in runs if len(run)]
    if len(runs) < 2:
        return list(runs)
    names = {name for run in runs for name in run.unchanged}
    before = next((run.before for run in runs if run.before is not None), None)
    olds, has_before = None, None
    if before is not None:
        olds = pa.concat_tables([run.before if run.before is not None else _nulls(before, len(run)) for run in runs])
        has_before = np.concatenate(
            [run.has_before if run.has_before is not None else np.zeros(len(run), bool) for run in runs]
        )
    return [
        Changes(
            pa.concat_tables([run.rows for run in runs]),
            np.concatenate([run.kind for run in runs]),
            np.concatenate([run.ordinal for run in runs]),
            np.concatenate([run.committed_at for run in runs]),
            {n: np.concatenate([run.unchanged.get(n, np.zeros(len(run), bool)) for run in runs]) for n in names},
            olds,
            has_before,
            rotates=any(run.rotates for run in runs),
        )
    ]


def _nulls(like: pa.Table, rows: int) -> pa.Table:
    return pa.Table.from_arrays([pa.nulls(rows, field.type) for field in like.schema], schema=like.schema)


def select_part(run: Changes | Truncated, first: int, end: int | None) -> Changes | Truncated | None:
    """What committed at or after `first` and before `end`; None where nothing did. A repair is behind everything."""
    if isinstance(run, Truncated):
        return run if run.ordinal >= first and (end is None or run.ordinal < end) else None
    if run.repairs:
        return run if end is None else None
    chosen = run.ordinal >= first
    if end is not None:
        chosen &= run.ordinal < end
    if chosen.all():
        return run
    if not chosen.any():
        return None
    mask = to_arrow(chosen)
    return Changes(
        run.rows.filter(mask),
        run.kind[chosen],
        run.ordinal[chosen],
        run.committed_at[chosen],
        {name: flags[chosen] for name, flags in run.unchanged.items()},
        None if run.before is None else run.before.filter(mask),
        None if run.has_before is None else run.has_before[chosen],
        rotates=run.rotates,
    )
