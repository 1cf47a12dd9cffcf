"""Every value of every row is compared: rows meet by digests, and those that are not the same by their values."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from dbt_bridge.contracts.side import Digests, NoDigests, Side
from dbt_bridge.nouns.parity import Parity, of_every_kind
from dbt_bridge.verify.method import Chosen, chosen, is_unique
from dbt_bridge.verify.request import VerifyRequest
from dbt_bridge.verify.rows import buckets
from dbt_bridge.verify.rows.bucket_filter import both_passing, narrowed
from dbt_bridge.verify.rows.comparison import Comparison, between
from dbt_bridge.verify.rows.digest_batches import KEY, Sender, Within
from dbt_bridge.verify.rows.fetch_suspects import examine
from dbt_bridge.verify.rows.judge_suspects import KINDS, Findings, keys_of
from dbt_bridge.verify.rows.match import (
    Sent,
    Suspects,
    both_kept,
    suspects,
)


def compared_rows(opened: Parity, ends: tuple[Side, Side], asked: VerifyRequest, engine: Any, folder: Path) -> Parity:
    """The parity at the level of rows."""
    comparison = between(ends, asked, engine, folder)
    choice, found = _matched(comparison, chosen(*ends, comparison.paired, asked))
    findings = Findings(asked.shown, asked.extra == "allowed")
    examine(comparison.senders, found, engine, folder / "suspicious", asked.memory_mb, findings)
    return replace(
        opened,
        method=choice.method,
        why=choice.why,
        rows_origin=found.rows[0],
        rows_destination=found.rows[1],
        only_in_origin=findings.counts["only_in_origin"],
        only_in_destination=findings.counts["only_in_destination"],
        different=findings.counts["different"],
        duplicates=findings.counts["duplicate"],
        allowed=findings.counts["allowed"],
        in_flight=len(found.in_flight),
        bytes=comparison.bytes,
        columns=dict(findings.columns.most_common()),
        examples=of_every_kind((e for kind in KINDS for e in findings.examples.get(kind, ())), asked.shown),
        keys=keys_of(findings),
    )


def _matched(comparison: Comparison, choice: Chosen) -> tuple[Chosen, Suspects]:
    try:
        if choice.method == "buckets":
            return _by_buckets(comparison, choice)
        return choice, _streamed(comparison, choice)
    except NoDigests as error:
        instead = Chosen("values", f"{error.what}, so values are read")
        return instead, _streamed(comparison, instead)


def _by_buckets(comparison: Comparison, choice: Chosen) -> tuple[Chosen, Suspects]:
    """The rows of buckets that differ are sent; all of them where most buckets differ."""
    hashing = next(sender.side for sender in comparison.senders if isinstance(sender.side, Digests))
    number = buckets.how_many(hashing.count())
    origin, destination = buckets.sums(comparison.senders, number)
    apart = buckets.apart(origin, destination)
    told = f"{choice.why}; {len(apart):,} of {number:,} buckets differed"
    if len(apart) > number // 2 and number > 1:
        instead = Chosen("digests", f"{told}, so the digests of all rows were sent")
        return instead, _streamed(comparison, instead)
    rows = buckets.rows_of(origin), buckets.rows_of(destination)
    if not apart:
        return replace(choice, why=told), Suspects.none(rows)
    found = _streamed(comparison, choice, (number, apart))
    found.rows = rows
    return replace(choice, why=told), found


def _streamed(comparison: Comparison, choice: Chosen, within: Within | None = None) -> Suspects:
    """Both sides send all of their rows, or the digests of these, or those of some buckets."""

    def sending(sender: Sender) -> Sent:
        if choice.method != "values" and isinstance(sender.side, Digests):
            return lambda: sender.digests(within)
        return lambda: sender.values(within)

    origin, destination = (sending(sender) for sender in comparison.senders)
    folder, memory_mb = comparison.folder / choice.method, comparison.asked.memory_mb
    cancel = comparison.senders[1].cancel
    if not _sums_decide(comparison):
        kept = both_kept((origin, destination), folder, KEY, memory_mb, cancel)
        return suspects(kept, comparison.paired, comparison.engine)
    sides = both_passing((origin, destination), folder, memory_mb, cancel)
    found = suspects(narrowed(sides, folder, memory_mb), comparison.paired, comparison.engine)
    found.rows = sides[0].rows, sides[1].rows
    return found


def _sums_decide(comparison: Comparison) -> bool:
    """Whether rows of buckets with the same sums are the same rows, and nothing else is asked of them."""
    return not comparison.paired.carried and is_unique(comparison.ends, comparison.paired)
