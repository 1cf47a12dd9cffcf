"""How a table changed between two of its shapes, and whether the rows that landed are still its rows.

pgoutput says the names and types of columns, and nothing else of an ALTER TABLE: not that a column was added with a
default (existing rows get it without a message), nor that a column was dropped and another one of its name added, nor
that values were rewritten (`ALTER COLUMN ... TYPE ... USING`). The catalog says the rest: a column keeps its number for
ever, its row in pg_attribute is new after each ALTER of it, and a rewritten table has a new file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from dbt_bridge.connectors.postgres.origin.column_types import WireColumn
from dbt_bridge.connectors.postgres.origin.shape import Shape
from dbt_bridge.connectors.postgres.origin.type_forms import find_reformed
from dbt_bridge.connectors.postgres.wire.relation import Relation

GAP = "it left its publication for a while, or that published less meanwhile"


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a table changed between two of its shapes.

    Attributes:
        shape: what the table has now; None when the table must be copied anew.
        lost: why it must: the stored rows may have changed without a message; empty when they did not.
        is_changed: columns came, went or have another name or type.
        renames: old name -> new name.
    """

    shape: Shape | None
    lost: str = ""
    is_changed: bool = False
    renames: Mapping[str, str] = field(default_factory=dict)


def compare_shapes(known: Shape, sent: Relation, now: Shape | None) -> Verdict:
    """Decide on a Relation message.

    Args:
        known: the shape that the landing table was last applied in.
        sent: the message: the shape at its place in the log.
        now: the catalog's, which may be further than the log; None when the table is gone.
    """
    was = [column.wire_column for column in known.columns]
    here = [WireColumn(column.name, column.type_oid, column.modifier) for column in sent.columns]
    if now is None:
        return Verdict(known) if was == here else _copy_anew("it changed, and was dropped since")
    if why := find_rewrite(known, now):
        return _copy_anew(why)
    current = [column.wire_column for column in now.columns]
    if was == here:
        # Partitions are remembered as they are now, or one that goes again would leave no trace.
        return Verdict(now if current == here else replace(known, partitions=now.partitions))
    if current != here:
        return _copy_anew("its columns changed more than once since the last sync")
    return _judge_alteration(known, now)


def find_rewrite(known: Shape, now: Shape) -> str:
    """Why the stored rows may have changed without a message; empty when they did not."""
    by_number = {column.number: column for column in now.columns}
    by_name = {column.name: column for column in now.columns}
    for column in known.columns:
        same = by_name.get(column.name)
        if same is not None and same.number != column.number and column.number not in by_number:
            return f"its column {column.name!r} was dropped, and another one of that name added"
    if why := find_reformed(known.forms or (), now.forms or ()):
        return why
    if known.published is not None and now.published is not None and not set(known.published) <= set(now.published):
        return GAP
    file_changed = known.file != now.file or known.kind == "p"
    for column in known.columns:
        there = by_number.get(column.number)
        if file_changed and there is not None and there.touched != column.touched:
            return f"its column {there.name!r} was altered, and the table rewritten"
    return _find_repartition(known, now)


def _find_repartition(known: Shape, now: Shape) -> str:
    """Why rows may have come or gone with a partition: pgoutput says nothing of what is done to it by its own name.

    https://www.postgresql.org/docs/current/sql-createpublication.html (publish_via_partition_root: TRUNCATE performed
    directly on partitions is not replicated)
    """
    here = {partition.oid: partition for partition in now.partitions}
    for was in known.partitions:
        partition = here.pop(was.oid, None)
        if partition is None or partition.attached != was.attached:
            return f"its partition {was.name!r} was detached or dropped"
        if partition.file != was.file:
            return f"its partition {was.name!r} was truncated or rewritten"
    for partition in here.values():
        if not partition.made:
            return f"the table {partition.name!r} was attached as its partition"
        if partition.is_rewritten:
            return f"its new partition {partition.name!r} was truncated or rewritten"
    return ""


def find_passed_partition(announced: Mapping[int, str], known: Shape, now: Shape) -> str:
    """Why rows of a partition stay that the log brought as the table's: it is a partition no more.

    Args:
        announced: partitions whose changes the log has as the table's, oid -> name.
    """
    there = {partition.oid for partition in (*known.partitions, *now.partitions)}
    passed = sorted(name for oid, name in announced.items() if oid not in there)
    return f"its partition {passed[0]!r} came and was dropped or detached again" if passed else ""


def find_renames(known: Shape, now: Shape) -> dict[str, str]:
    """Old name -> new name."""
    names = {column.number: column.name for column in now.columns}
    there = {column.name: names.get(column.number, column.name) for column in known.columns}
    return {old: new for old, new in there.items() if old != new}


def _judge_alteration(known: Shape, now: Shape) -> Verdict:
    before = {column.number: column for column in known.columns}
    renames = {}
    for column in now.columns:
        old = before.get(column.number)
        if old is None:
            if column.has_missing or column.generated or known.file != now.file or known.kind == "p":
                return _copy_anew(f"its column {column.name!r} was added with values for the rows that stand")
        elif old.name != column.name:
            renames[old.name] = column.name
        if old is not None and old.type_oid != column.type_oid:
            return _copy_anew(f"the type of its column {column.name!r} changed")
    return Verdict(now, is_changed=True, renames=renames)


def _copy_anew(why: str) -> Verdict:
    return Verdict(None, why)
