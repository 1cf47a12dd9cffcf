"""Two systems that should say the same: a model, and the legacy relation or query that it replaces.

Reconciliation      what was declared beside the model
Selection           named values of some rows, in one database's own SQL
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Literal

from dbt_bridge.errors import UsageError
from dbt_bridge.nouns.table import TableName

if TYPE_CHECKING:
    pass

Level = Literal["counts", "aggregates", "rows"]
ROWS = "dbt_bridge_rows"  # the alias of a query that stands after FROM
_THIS = re.compile(r"\{\s*this\s*\}")
_REF = re.compile(r"\{\s*ref\(\s*(['\"])(?P<model>[^'\"]+)\1\s*\)\s*\}")


@dataclass(frozen=True, slots=True)
class DeclaredTolerance:
    """A tolerance as it was declared.

    Attributes:
        amount: absolute (seconds for moments), or the share of the legacy value where `relative`.
        text: as it was written: `0.5`, `0.01%`, `2 seconds`.
        time: the amount is seconds, for moments.
    """

    amount: Decimal
    relative: bool
    text: str
    time: bool = False


@dataclass(frozen=True, slots=True)
class Pairing:
    """Where each side's value of one compared column comes from: a column's name or an SQL expression; empty for the
    column of that name."""

    legacy: str = ""
    new: str = ""


@dataclass(frozen=True, slots=True)
class Metric:
    """One query of numbers for each side.

    Attributes:
        new: `{this}` is replaced by the model's relation already.
        by: columns that tell rows of one result apart; those that hold no numbers when empty.
    """

    name: str
    legacy: str
    new: str
    tolerance: DeclaredTolerance | None = None
    by: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Reconciliation:
    """A model and what it replaces.

    Attributes:
        node: dbt's unique_id of the model.
        name: the model's, for people.
        this: the model's relation as dbt writes it in SQL.
        display_name: the same for people.
        origin: where the legacy rows are: dlt's `[sources.ORIGIN]`; empty for the warehouse itself.
        relation, query: one of both: the legacy relation (its schema empty for the default one), or a query.
        legacy_database: of a relation in the warehouse itself, its database; empty for that of dbt's profile.
        legacy_filter, new_filter: SQL conditions; empty for all rows.
        key: new name -> legacy column; empty to take `default_key`, or else the legacy primary key.
        default_key: the model's own.
        only: the only columns that are compared; empty for all that both sides have.
        columns: new name -> how it is had on both sides, where not by its name.
        exclude: columns that are not compared.
        tolerances: per new name.
        required: `build` delivers nothing that depends on the model unless it reconciles.
    """

    node: str
    name: str
    this: str
    display_name: str
    origin: str = ""
    relation: TableName | None = None
    query: str = ""
    legacy_database: str = ""
    legacy_filter: str = ""
    new_filter: str = ""
    key: Mapping[str, str] = field(default_factory=dict)
    default_key: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    columns: Mapping[str, Pairing] = field(default_factory=dict)
    exclude: tuple[str, ...] = ()
    tolerances: Mapping[str, DeclaredTolerance] = field(default_factory=dict)
    levels: tuple[Level, ...] = ("rows",)
    metrics: tuple[Metric, ...] = ()
    required: bool = False

    @property
    def legacy(self) -> str:
        """The legacy side for people."""
        metrics = f"metrics {', '.join(metric.name for metric in self.metrics)}"
        relation = ".".join(part for part in (self.legacy_database, str(self.relation).removeprefix(".")) if part)
        shown = relation if self.relation else " ".join(self.query.split()) or metrics
        where = self.origin or "warehouse"
        return f"{where}: {shown if len(shown) <= 60 else shown[:57] + '...'}"


@dataclass(frozen=True, slots=True)
class Selection:
    """Named values of some rows.

    Attributes:
        rows: what stands after FROM: a quoted relation, or a query in parentheses with its alias.
        values: name -> SQL over these rows.
        condition: what stands after WHERE; empty for all rows.
        relation: the rows' name where they are a relation, for the types that its catalog knows.
        plain: name -> column, of those values that are nothing but a column of these rows.
        key: names of which the database holds each combination once; empty where nothing makes sure of it.
    """

    rows: str
    values: Mapping[str, str]
    condition: str = ""
    relation: TableName | None = None
    plain: Mapping[str, str] = field(default_factory=dict)
    key: tuple[str, ...] = ()

    def sql(self, quote_identifier: Callable[[str], str]) -> str:
        """The SELECT. What people wrote ends in a line of its own, for it may end in a comment."""
        values = ",\n".join(f"{value} AS {quote_identifier(name)}" for name, value in self.values.items())
        where = f"\nWHERE (\n{self.condition}\n)" if self.condition else ""
        return f"SELECT {values}\nFROM {self.rows}{where}"


def strip_semicolon(sql: str) -> str:
    """A query without the semicolon at its end."""
    return sql.strip().rstrip(";").rstrip()


def in_parentheses(sql: str) -> str:
    """A query as it stands after FROM."""
    return f"(\n{strip_semicolon(sql)}\n) {ROWS}"


def require_distinct(names: Sequence[str], where: str) -> list[str]:
    """The columns of a query, each of its own name: Postgres calls every sum `sum`.

    Raises:
        UsageError: two have the same.
    """
    if twice := next((name for place, name in enumerate(names) if name in names[:place]), None):
        raise UsageError(
            f"{where}: the query gives two columns named {twice!r}",
            mend=f"name them: select sum(x) as {twice}_of_x, ...",
        )
    return list(names)


def resolve_references(sql: str, this: str, refs: Callable[[str], str | None], where: str) -> str:
    """A query's `{this}` and `{ref('model')}` as relations.

    Raises:
        UsageError: there is no such model.
    """

    def relation_of(ref: re.Match[str]) -> str:
        relation = refs(ref["model"])
        if relation is None:
            raise UsageError(f"{where}: there is no model {ref['model']!r}", mend="correct the name in {ref('...')}")
        return relation

    return _REF.sub(relation_of, _THIS.sub(lambda _: this, sql))
