"""Every value of every row is compared: rows meet by digests, and those that are not the same by their values."""

from __future__ import annotations

from dataclasses import dataclass, replace

from dbt_bridge.contracts.side import BucketSelection, Digests, NoDigests, Side
from dbt_bridge.nouns.both import Both
from dbt_bridge.nouns.parity import Parity, of_every_kind
from dbt_bridge.verify.request import VerifyRequest
from dbt_bridge.verify.rows import buckets
from dbt_bridge.verify.rows.bucket_filter import buffer_both, partition_different
from dbt_bridge.verify.rows.comparison import Comparison, prepare_comparison
from dbt_bridge.verify.rows.fetch_suspects import fetch_and_judge
from dbt_bridge.verify.rows.findings import KINDS, Findings, collect_keys
from dbt_bridge.verify.rows.match import Stream, Suspects, find_suspects, partition_both
from dbt_bridge.verify.rows.method import MethodChoice, choose_method, has_unique_key
from dbt_bridge.verify.rows.sender import KEY, Sender
from dbt_bridge.verify.rows.workspace import Workspace


def compare_rows(blank: Parity, sides: Both[Side], request: VerifyRequest, workspace: Workspace) -> Parity:
    """The parity at the level of rows."""
    comparison = prepare_comparison(sides, request, workspace)
    matched = _match(comparison, choose_method(sides, comparison.pairs, request))
    findings = Findings(request.shown, request.extra == "allowed")
    fetch_and_judge(comparison, matched.suspects, findings)
    return replace(
        blank,
        method=matched.choice.method,
        why=matched.choice.why,
        rows_origin=matched.suspects.rows.origin,
        rows_destination=matched.suspects.rows.destination,
        only_in_origin=findings.counts["only_in_origin"],
        only_in_destination=findings.counts["only_in_destination"],
        different=findings.counts["different"],
        duplicates=findings.counts["duplicate"],
        allowed=findings.counts["allowed"],
        in_flight=len(matched.suspects.in_flight),
        bytes=comparison.bytes,
        columns=dict(findings.columns.most_common()),
        examples=of_every_kind((e for kind in KINDS for e in findings.examples.get(kind, ())), request.shown),
        keys=collect_keys(findings),
    )


@dataclass(frozen=True, slots=True)
class _Matched:
    """The suspects, and the method by which they were found in the end."""

    choice: MethodChoice
    suspects: Suspects


def _match(comparison: Comparison, choice: MethodChoice) -> _Matched:
    try:
        if choice.method == "buckets":
            return _match_buckets(comparison, choice)
        return _match_streams(comparison, choice)
    except NoDigests as error:
        return _match_streams(comparison, MethodChoice("values", f"{error.what}, so values are read"))


def _match_buckets(comparison: Comparison, choice: MethodChoice) -> _Matched:
    """The rows of buckets that differ are sent; all rows where most buckets differ."""
    hashing = next(sender.side for sender in comparison.senders if isinstance(sender.side, Digests))
    count = buckets.choose_bucket_count(hashing.count())
    sums = buckets.sum_buckets(comparison.senders, count)
    different = buckets.find_different_buckets(sums)
    why = f"{choice.why}; {len(different):,} of {count:,} buckets differed"
    if len(different) > count // 2 and count > 1:
        return _match_streams(comparison, MethodChoice("digests", f"{why}, so the digests of all rows were sent"))
    choice = replace(choice, why=why)
    rows = sums.map(buckets.count_rows)
    if not different:
        return _Matched(choice, Suspects.none(rows))
    matched = _match_streams(comparison, choice, BucketSelection(count, different))
    matched.suspects.rows = rows
    return matched


def _match_streams(comparison: Comparison, choice: MethodChoice, within: BucketSelection | None = None) -> _Matched:
    """Both sides send their rows, or the digests of them: all, or those of some buckets."""

    def stream(sender: Sender) -> Stream:
        if choice.method != "values" and isinstance(sender.side, Digests):
            return lambda: sender.stream_digests(within)
        return lambda: sender.stream_values(within)

    streams: Both[Stream] = comparison.senders.map(stream)
    workspace = comparison.workspace.inside(choice.method)
    cancel = comparison.senders.destination.cancel
    if not _is_sum_enough(comparison):
        partitions = partition_both(streams, workspace, KEY, cancel)
        return _Matched(choice, find_suspects(partitions, comparison.pairs, workspace.engine))
    buffers = buffer_both(streams, workspace, cancel)
    suspects = find_suspects(partition_different(buffers, workspace), comparison.pairs, workspace.engine)
    suspects.rows = buffers.map(lambda buffer: buffer.rows)
    return _Matched(choice, suspects)


def _is_sum_enough(comparison: Comparison) -> bool:
    """Whether rows of buckets with the same sums are the same rows, and nothing else is needed of them."""
    return not comparison.pairs.carried and has_unique_key(comparison.sides, comparison.pairs)
