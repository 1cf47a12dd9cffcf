"""The SQL that writes a staged net effect to a landing table, for each warehouse that is reached through dlt.

MERGE in one statement where the warehouse has it with conditions (Snowflake, BigQuery, Databricks, DuckDB, PostgreSQL
15). Redshift's has none (https://docs.aws.amazon.com/redshift/latest/dg/r_MERGE.html): there it is DELETE, UPDATE and
INSERT. Every identifier is quoted, every value a literal of sqlglot's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from sqlglot import exp

from dbt_bridge.replicate.merge_rows import (
    DO,
    FRESH,
    GONE,
    KEEPING,
    MOVED,
)

_WITHOUT_MERGE = ("redshift",)


@dataclass(frozen=True, slots=True)
class MergeSql:
    """Statements for one staged run.

    Attributes:
        dialect: sqlglot's name.
        target, staged: path of each table: catalog (where there is one), schema, name.
        key, columns: of the landing table, those that changes bring.
        kept: column -> the flag that says that the landing table's own value stays.
        found: key column -> the column with the key under which the landing table has a moved row.
        extra: columns that only the landing table has.
        stored: a name as the warehouse stores it.
    """

    dialect: str
    target: Sequence[str]
    staged: Sequence[str]
    key: Sequence[str]
    columns: Sequence[str]
    kept: Mapping[str, str] = field(default_factory=dict)
    found: Mapping[str, str] = field(default_factory=dict)
    extra: Sequence[str] = ()
    stored: Callable[[str], str] = str

    def missing(self) -> list[str]:
        """Each counts staged rows that need values of landing rows which are not there."""
        own = {k: k for k in self.key}
        return [self._missing(KEEPING, own), *([self._missing(MOVED, self.found)] if self.found else [])]

    def take_along(self) -> str:
        """Staged rows that moved to another key get the values that stay."""
        values: dict[str, exp.Expression] = {
            name: exp.case().when(self._of("s", flag), self._of("t", name)).else_(self._of("s", name))
            for name, flag in self.kept.items()
        }
        values |= {name: self._of("t", name) for name in self.extra}
        same = [self._of("t", k).eq(self._of("s", self.found[k])) for k in self.key]
        condition = _and([self._do().eq(_number(MOVED)), *same])
        if self.dialect in _WITHOUT_MERGE:
            return self._update(self.staged, self.target, ("s", "t"), values, condition)
        return self._merge(self.staged, self.target, ("s", "t"), condition, [_when(True, None, self._set(values))])

    def settle(self) -> str | None:
        """Staged rows that moved have all their values now, so that they are written as they are."""
        if not self.kept:
            return None
        flags: dict[str, exp.Expression] = {flag: exp.false() for flag in self.kept.values()}
        update = exp.Update(
            this=self._table(self.staged),
            expressions=[exp.EQ(this=self._name(name), expression=value) for name, value in flags.items()],
        )
        return self._sql(update.where(self._name(DO).eq(_number(MOVED))))

    def write(self) -> list[str]:
        """The net effect, in this order."""
        if self.dialect in _WITHOUT_MERGE:
            return self._three()
        same = _and([self._of("t", k).eq(self._of("s", k)) for k in self.key])
        gone, stays = self._do().eq(_number(GONE)), self._do().neq(_number(GONE))
        names = [*self.columns, *self._moved_columns()]
        insert = exp.Insert(
            this=exp.Tuple(expressions=[self._name(n) for n in names]),
            expression=exp.Tuple(expressions=[self._of("s", n) for n in names]),
        )
        whens = [_when(True, gone, exp.Var(this="DELETE"))]
        if values := self._values():
            whens.append(_when(True, None, self._set(values)))
        whens.append(_when(False, stays, insert))
        return [self._merge(self.target, self.staged, ("t", "s"), same, whens)]

    # --- inside ------------------------------------------------------------------------------------------------

    def _missing(self, do: int, under: Mapping[str, str]) -> str:
        same = _and([self._of("t", k).eq(self._of("s", under[k])) for k in self.key])
        query = exp.select(exp.Count(this=exp.Star()).as_("missing")).from_(self._table(self.staged, "s"))
        query = query.join(self._table(self.target, "t"), on=same, join_type="left")
        return self._sql(query.where(_and([self._do().eq(_number(do)), self._of("t", self.key[0]).is_(exp.null())])))

    def _three(self) -> list[str]:
        same = _and([self._of("t", k).eq(self._of("s", k)) for k in self.key])
        delete = exp.Delete(this=self._table(self.target), using=[self._table(self.staged, "s")])
        statements = [self._sql(delete.where(self._strip_alias(_and([self._do().eq(_number(GONE)), same]))))]
        stays = self._do().neq(_number(GONE))
        if values := self._values():
            statements.append(self._update(self.target, self.staged, ("t", "s"), values, _and([stays, same])))
        names = [*self.columns, *self._moved_columns()]
        rows = exp.select(*(self._of("s", n) for n in names)).from_(self._table(self.staged, "s"))
        new = rows.where(_and([stays, self._absent({k: k for k in self.key})]))
        into = exp.Schema(this=self._table(self.target), expressions=[self._name(n) for n in names])
        statements.append(self._sql(exp.Insert(this=into, expression=new)))
        return statements

    def _moved_columns(self) -> Sequence[str]:
        return self.extra if self.found else ()

    def _values(self) -> dict[str, exp.Expression]:
        """What a standing row becomes."""
        values: dict[str, exp.Expression] = {}
        for name in self.columns:
            if name in self.key:
                continue
            new: exp.Expression = self._of("s", name)
            if name in self.kept:
                new = exp.case().when(self._of("s", self.kept[name]), self._of("t", name)).else_(new)
            values[name] = new
        for name in self.extra:  # a new row in an old one's place has no values that somebody added
            case = exp.case().when(self._do().eq(_number(FRESH)), exp.null())
            if self.found:
                case = case.when(self._do().eq(_number(MOVED)), self._of("s", name))
            values[name] = case.else_(self._of("t", name))
        return values

    def _absent(self, under: Mapping[str, str]) -> exp.Expression:
        same = _and([self._of("t", k).eq(self._of("s", under[k])) for k in self.key])
        there = exp.select(_number(1)).from_(self._table(self.target, "t")).where(same)
        return exp.not_(exp.Exists(this=there))

    def _merge(
        self,
        into: Sequence[str],
        using: Sequence[str],
        names: tuple[str, str],
        on: exp.Expression,
        whens: Sequence[exp.When],
    ) -> str:
        return self._sql(
            exp.Merge(
                this=self._table(into, names[0]),
                using=self._table(using, names[1]),
                on=on,
                whens=exp.Whens(expressions=list(whens)),
            )
        )

    def _update(
        self,
        into: Sequence[str],
        using: Sequence[str],
        names: tuple[str, str],
        values: Mapping[str, exp.Expression],
        where: exp.Expression,
    ) -> str:
        update = exp.Update(
            this=self._table(into),
            expressions=[
                exp.EQ(this=self._name(n), expression=self._strip_alias(v, names[0], into)) for n, v in values.items()
            ],
            from_=exp.From(this=self._table(using, names[1])),
        )
        return self._sql(update.where(self._strip_alias(where, names[0], into)))

    def _strip_alias(self, tree: exp.Expression, alias: str = "t", path: Sequence[str] = ()) -> exp.Expression:
        """The changed table's columns by its own name: Redshift gives it no alias."""
        name = (path or self.target)[-1]
        tree = tree.copy()
        for column in tree.find_all(exp.Column):
            if column.table == alias:
                column.set("table", exp.to_identifier(name, quoted=True))
        return tree

    def _set(self, values: Mapping[str, exp.Expression]) -> exp.Update:
        return exp.Update(expressions=[exp.EQ(this=self._name(n), expression=v) for n, v in values.items()])

    def _table(self, path: Sequence[str], alias: str = "") -> exp.Table:
        return table_of(path, alias)

    def _do(self) -> exp.Column:
        return self._of("s", DO)

    def _of(self, alias: str, name: str) -> exp.Column:
        return exp.column(exp.to_identifier(self.stored(name), quoted=True), table=alias)

    def _name(self, name: str) -> exp.Column:
        return exp.column(exp.to_identifier(self.stored(name), quoted=True))

    def _sql(self, statement: exp.Expression) -> str:
        return statement.sql(self.dialect, pretty=True, comments=False)


def table_of(path: Sequence[str], alias: str = "") -> exp.Table:
    """A quoted table name of sqlglot's."""
    parts = [exp.to_identifier(part, quoted=True) for part in path]
    return exp.Table(
        this=parts[-1],
        db=parts[-2] if len(parts) > 1 else None,
        catalog=parts[-3] if len(parts) > 2 else None,
        alias=exp.TableAlias(this=exp.to_identifier(alias)) if alias else None,
    )


def _when(matched: bool, condition: exp.Expression | None, then: exp.Expression) -> exp.When:
    return exp.When(matched=matched, condition=condition, then=then)


def _and(parts: Sequence[exp.Expression]) -> exp.Expression:
    return exp.and_(*parts)


def _number(value: int) -> exp.Expression:
    return exp.Literal.number(value)
