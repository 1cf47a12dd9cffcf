"""Every value of every row is compared: rows meet by digests, and those that are not the same by their values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dbt_bridge.errors import UsageError
from dbt_bridge.verify.asked import Asked
from dbt_bridge.verify.bound import late
from dbt_bridge.verify.examining import examine
from dbt_bridge.verify.judging import KINDS, Findings, keys_of
from dbt_bridge.verify.matching import Suspects, both_kept, suspects
from dbt_bridge.verify.method import Chosen, chosen
from dbt_bridge.verify.paired import Paired, paired
from dbt_bridge.verify.parity import Difference, Parity
from dbt_bridge.verify.sent import KEY, Sender
from dbt_bridge.verify.side import Digests, NoDigests, Side


@dataclass(slots=True)
class Read:
    """What was read so far, from both sides."""

    progress: Callable[[int], None]
    bytes: int = 0
    rows: int = 0

    def __call__(self, bytes_: int, rows: int) -> None:
        self.bytes += bytes_
        self.rows += rows
        self.progress(self.rows // 2)


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two sides whose rows are compared, and where they meet.

    Attributes:
        engine: the private DuckDB.
        folder: for what does not fit into memory.
    """

    senders: tuple[Sender, Sender]
    asked: Asked
    engine: Any
    folder: Path

    @property
    def paired(self) -> Paired:
        return self.senders[0].paired


def compared_rows(opened: Parity, ends: tuple[Side, Side], asked: Asked, engine: Any, folder: Path) -> Parity:
    """The parity at the level of rows."""
    columns = paired(*ends, asked)
    if columns.carried and not columns.key and asked.tolerances:
        raise UsageError(
            f"rows of {ends[0].name} have no key to meet by, so a tolerance cannot be kept", mend="declare its key"
        )
    read = Read(asked.progress)
    limit = late(columns, asked.bound, engine)
    senders = Sender(ends[0], "origin", columns, read, limit), Sender(ends[1], "destination", columns, read, limit)
    comparison = Comparison(senders, asked, engine, folder)
    sent_before = [_sent(side) for side in ends]
    choice, found = _matched(comparison, chosen(*ends, columns, asked))
    findings = Findings(asked.shown, asked.extra == "allowed")
    examine(senders, found, engine, folder / "suspicious", asked.memory_mb, findings)
    on_wires = sum(_sent(side) - before for side, before in zip(ends, sent_before, strict=True))
    return replace(
        opened,
        method=choice.method,
        why=choice.why,
        rows_origin=found.rows[0],
        rows_destination=found.rows[1],
        **{f"{kind}s" if kind == "duplicate" else kind: findings.counts[kind] for kind in KINDS},
        allowed=findings.counts["allowed"],
        in_flight=len(found.in_flight),
        bytes=read.bytes + on_wires,
        columns=dict(findings.columns.most_common()),
        examples=_of_every_kind(findings, asked.shown),
        keys=keys_of(findings),
    )


def _sent(side: Side) -> int:
    return side.wire_bytes if isinstance(side, Digests) else 0


def _matched(comparison: Comparison, choice: Chosen) -> tuple[Chosen, Suspects]:
    try:
        if choice.method == "buckets":
            raise NoDigests("not yet")
        return choice, _streamed(comparison, choice)
    except NoDigests as error:
        instead = Chosen("values", f"{error.what}, so values are read")
        return instead, _streamed(comparison, instead)


def _streamed(comparison: Comparison, choice: Chosen) -> Suspects:
    """Both sides send all of their rows, or the digests of these."""
    origin, destination = (
        sender.digests if choice.method == "digests" and isinstance(sender.side, Digests) else sender.values
        for sender in comparison.senders
    )
    kept = both_kept((origin, destination), comparison.folder / choice.method, KEY, comparison.asked.memory_mb)
    return suspects(kept, comparison.paired, comparison.engine)


def _of_every_kind(findings: Findings, shown: int) -> tuple[Difference, ...]:
    """Some examples of every kind; one kind has more where another has few."""
    told: list[Difference] = []
    kinds = [kind for kind in KINDS if findings.examples.get(kind)]
    quota = dict.fromkeys(kinds, 0)
    while sum(quota.values()) < shown and any(quota[kind] < len(findings.examples[kind]) for kind in kinds):
        for kind in kinds:
            if quota[kind] < len(findings.examples[kind]) and sum(quota.values()) < shown:
                quota[kind] += 1
    for kind in kinds:
        told += findings.examples[kind][: quota[kind]]
    return tuple(told)
