"""Keys of every type: changes find their rows at every native destination as they do at the origin.

Types and values are those of the golden list. Each is a primary key, the column of a replica identity index, an element
of an array, a domain and a field of a composite type, where PostgreSQL takes it for a key at all. What then happens is
drawn by chance, blindly: what the origin refuses is rolled back there, and its rows are the right answer.
"""

from __future__ import annotations

import importlib.util
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from tests.cdc.ends import End
from tests.chance import SEED
from tests.projects import table

_spec = importlib.util.spec_from_file_location(
    "golden_types", Path(__file__).parents[1] / "connectors" / "postgres" / "origin" / "test_golden_types.py"
)
assert _spec and _spec.loader
golden = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(golden)

# Further values: those that PostgreSQL takes for one of the golden ones, and what is near.
MORE = {
    "real": ["0", "2.5"],
    "double precision": ["0", "-0", "2.5"],
    "numeric": ["1.1", "1.100", "2", "2.0"],
    "interval": ["1 mon", "30 days", "720:00:00", "29 days", "1 mon -1 day"],
    "public.citext": ["mixed", "MIXED", "other"],
    "character(5)": ["abc", "b"],
    "jsonb": ['{"n": 1.0}', '{"n": 1.00}', "[]"],
    "numrange": ["[1.0,2)", "[1.00,2.0)", "empty"],
    "text": ["b"],
    "time with time zone": ["12:00+00", "13:00+01"],
    "integer[]": ["{1}", "{NULL}", "{1,NULL}"],
    "double precision[]": ["{0}", "{-0}", "{0,NULL}"],
    "inet": ["10.0.0.1/32", "10.0.0.1/24"],
    "boolean": [],
}
TYPES = {name: values for name, (_, values) in golden.CASES.items()} | {"numrange": []}
CITEXT = "public.citext"
SKIPPED_VALUES = {"x" * 100_000, "9" * 1000, "9" * 500 + "." + "9" * 500, r"\x" + "ab" * 5000}  # too large for an index
FORMS = ("identity", "array", "domain", "composite")
STEPS = 16
# What Delta does not keep, whether or not it is a key; and what it does not compare.
NOT_IN_DELTA = ("infinity", "BC", "5874897")


@dataclass(frozen=True)
class Keyed:
    """A table `name` with the columns k, v and w, and texts of values of k."""

    name: str
    type: str
    values: tuple[str, ...]

    @property
    def sql_type(self) -> str:
        """Of the column k."""
        form = self.name.split("_")[0]
        others = {"array": f"{self.type}[]", "domain": f"d_{self.name}", "composite": f"c_{self.name}"}
        return others.get(form, self.type)


def as_form(form: str, value: str) -> str:
    """A value's text inside of an array or composite."""
    quoted = '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    if form == "array":
        return "{" + quoted + "}"
    return f"({quoted},1)" if form == "composite" else value


def make_tables(origin: psycopg.Connection, left_out: tuple[str, ...], further: int | None) -> list[Keyed]:
    """Those that PostgreSQL makes: each type as a primary key, and in another form.

    Args:
        left_out: parts of values.
        further: which form the first type has beside the primary key; None for no other form, and only of types some of
            whose values are one to PostgreSQL.
    """
    origin.execute(golden.SETUP.encode())
    made = []
    for number, (name, values) in enumerate(TYPES.items()):
        if further is None and name not in MORE:
            continue
        chosen = [v for v in [*values, *MORE.get(name, [])] if v not in SKIPPED_VALUES]
        chosen = [v for v in chosen if not any(part in v for part in left_out)]
        forms = ["primary"] if further is None else ["primary", FORMS[(number + further) % len(FORMS)]]
        for form in forms:
            keyed = Keyed(f"{form}_{number}", name, tuple(as_form(form, value) for value in chosen))
            if not (form == "array" and name.endswith("[]")) and _make(origin, keyed, form):
                made.append(keyed)
    return made


def _make(origin: psycopg.Connection, keyed: Keyed, form: str) -> bool:
    type_ = keyed.sql_type
    unique = "k {} NOT NULL UNIQUE, id serial PRIMARY KEY" if form == "identity" else "k {} PRIMARY KEY"
    try:
        with origin.transaction():
            if form == "domain":
                origin.execute(f"CREATE DOMAIN {type_} AS {keyed.type}".encode())
            if form == "composite":
                origin.execute(f"CREATE TYPE {type_} AS (a {keyed.type}, n int)".encode())
            origin.execute(f"CREATE TABLE {keyed.name} ({unique.format(type_)}, v text, w int)".encode())
            if form == "identity":
                origin.execute(f"ALTER TABLE {keyed.name} REPLICA IDENTITY USING INDEX {keyed.name}_k_key".encode())
            for value in keyed.values[:1]:  # an array of points can be indexed, and not be compared
                origin.execute(sql.SQL("SELECT 1 WHERE {0}::{1} < {0}::{1}").format(sql.Literal(value), sql.SQL(type_)))  # type: ignore[arg-type]
            for number, value in enumerate(keyed.values):
                statement = sql.SQL("INSERT INTO {} (k, v, w) VALUES ({}, {}, 0) ON CONFLICT DO NOTHING")
                if number % 2 == 0:
                    name = sql.Identifier(keyed.name)
                    origin.execute(statement.format(name, sql.Literal(value), sql.Literal(f"v{number}")))
    except (psycopg.errors.UndefinedObject, psycopg.errors.UndefinedFunction, psycopg.errors.FeatureNotSupported):
        return False  # it has no order, or there is no such type
    return True


def change(origin: psycopg.Connection, keyed: Keyed, chance: random.Random) -> None:
    """One transaction. What breaks the key is taken back, step by step."""
    type_ = keyed.type if keyed.sql_type.startswith("d_") else keyed.sql_type  # domains of enums have no operators
    literals = [f"{sql.Literal(value).as_string()}::{type_}" for value in keyed.values]
    name, steps = keyed.name, []
    for step in range(STEPS if literals else 0):
        one, other = chance.choice(literals), chance.choice(literals)
        label = f"'s{chance.randrange(10**6)}-{step}'"
        every = (
            f"INSERT INTO {name} (k, v, w) VALUES ({one}, {label}, 1)",  # noqa: S608
            f"UPDATE {name} SET v = {label}, w = w + 1 WHERE k::{type_} = {one}",  # noqa: S608
            f"UPDATE {name} SET k = {other} WHERE k::{type_} = {one}",  # noqa: S608
            f"UPDATE {name} SET k = {other}, v = {label} WHERE k::{type_} = {one}",  # noqa: S608
            f"DELETE FROM {name} WHERE k::{type_} = {one}",  # noqa: S608
        )
        steps.append(chance.choice(every))
    blocks = "\n".join(f"BEGIN {step}; EXCEPTION WHEN unique_violation THEN NULL; END;" for step in steps)
    origin.execute(f"DO $do$ BEGIN {blocks} END $do$".encode())


def rows_of(origin: psycopg.Connection, keyed: Keyed) -> list[tuple[object, ...]]:
    return sorted(origin.execute(f"SELECT v, w FROM {keyed.name}".encode()).fetchall())  # noqa: S608


@pytest.fixture
def quiet(origin: psycopg.Connection) -> Iterator[psycopg.Connection]:
    origin.execute("SET client_min_messages = error")
    yield origin


@pytest.mark.parametrize("deletes", ["hard", "soft"])
def test_changes_find_their_rows_by_keys_of_every_type(quiet: psycopg.Connection, end: End, deletes: str) -> None:
    seed = SEED
    print(f"seed {seed}")
    chance = random.Random(seed)
    is_lake = end.kind == "lake"
    further = None if deletes == "soft" else seed + ("duckdb", "postgres", "lake").index(end.kind)
    made = make_tables(quiet, NOT_IN_DELTA if is_lake else (), further)
    assert len(made) >= len(MORE), "PostgreSQL takes most types for a key"
    tables = [table(keyed.name, deletes=deletes) for keyed in made]
    receipts = {r.node.rsplit(".", 1)[1]: r for r in end.sync(*tables, check=False)}
    refused = {name for name, receipt in receipts.items() if receipt.status != "success"}
    for name in refused:
        assert "types: {k: text}" in (receipts[name].error or ""), receipts[name].error
    followed = [keyed for keyed in made if keyed.name not in refused]
    for keyed in followed:
        change(quiet, keyed, chance)
    again = end.sync(*[t for t in tables if t.name not in refused], check=False)
    assert {r.node: r.error for r in again if r.status != "success"} == {}
    names = [keyed.name for keyed in followed]
    assert read_rows(end, names, soft=deletes == "soft") == {keyed.name: rows_of(quiet, keyed) for keyed in followed}


def read_rows(end: End, names: list[str], *, soft: bool) -> dict[str, list[tuple[object, ...]]]:
    """Of each table those that stand for rows of the origin, sorted."""
    alive = "_deleted_at IS NULL" if soft else "true"
    found: dict[str, list[tuple[object, ...]]] = {name: [] for name in names}
    if end.kind == "lake":
        every = [(name, *row) for name in names for row in end.rows(name, f"v, w, {alive}")]
    else:  # in one query
        unions = [f" UNION ALL SELECT '{name}', v, w, {alive} FROM shop_landing.{name}" for name in names[1:]]  # noqa: S608
        every = end.rows(names[0] + "".join(unions), f"'{names[0]}', v, w, {alive}")
    for name, v, w, is_alive in every:
        if is_alive:
            found[name].append((v, w))
    return {name: sorted(rows) for name, rows in found.items()}
