"""`dbt-bridge init --origin-url`: a project around the tables that the user's own database has."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from dbt_bridge.errors import ConnectionFailed, OriginError
from dbt_bridge.nouns.table import Table, quote_identifier
from dbt_bridge.scaffold import template
from dbt_bridge.scaffold.template import Answers

ORIGIN = "origin_db"
SOURCE = "origin"

# How applications name the time of a row's last change, most telling first.
_CHANGE_TIMES = ("updated_at", "modified_at", "last_modified", "last_update", "last_updated", "changed_at")


@dataclass(frozen=True, slots=True)
class Staged:
    """A table of the origin and the staging model over it.

    Attributes:
        name: of the source table in dbt, unique in the project.
        cursor: the column to land the table's changes by; None to copy it whole.
    """

    table: Table
    name: str
    cursor: str | None

    @property
    def model(self) -> str:
        return f"stg_{self.name}"


def write_own_project(directory: Path, answers: Answers, schema: str | None = None) -> list[Path]:
    """Look at the origin's tables, and write sources, staging models and tests for them.

    Args:
        schema: the origin's schema; its default one when None.

    Raises:
        UsageError: the origin's URL cannot be read, the project's name is none, or a file is there already.
        ConnectionFailed, OriginError: the origin cannot be reached, or the schema has no tables.
    """
    files = template.rendered("own", answers)
    staged = staging_models(_tables(answers, schema))
    staging = Path("models/staging")
    files[staging / "_sources.yml"] = sources_yaml(staged, schema)
    files[staging / "_staging.yml"] = tests_yaml(staged)
    for one in staged:
        files[staging / f"{one.model}.sql"] = staging_sql(one)
    files[Path("models/marts/landed_tables.sql")] = counts_sql(staged)
    return template.write_files(directory, files)


def _tables(answers: Answers, schema: str | None) -> list[Table]:
    from dbt_bridge.project.origins import open_origin

    with tempfile.TemporaryDirectory() as folder:  # mode 0700, as the origin is opened from dlt's settings
        files = template.rendered("own", answers)
        template.write_files(Path(folder), {path: text for path, text in files.items() if path.parts[0] == ".dlt"})
        try:
            with open_origin(ORIGIN, project_root=Path(folder)) as origin:
                tables = [origin.describe(name).table for name in origin.tables(schema)]
        except ConnectionFailed as error:  # its mend names a file that is not there yet
            raise ConnectionFailed(error.what, mend="check --origin-url; nothing was written") from error
    tables = [table for table in tables if table.columns]
    if not tables:
        raise OriginError(
            f"the origin has no tables with columns in {f'schema {schema}' if schema else 'its default schema'}",
            mend="name another schema: dbt-bridge init DIR --origin-url URL --origin-schema SCHEMA",
        )
    return tables


def staging_models(tables: Iterable[Table]) -> list[Staged]:
    """One staging model per table, under names that dbt takes."""
    staged: list[Staged] = []
    taken: set[str] = set()
    for table in tables:
        stem = re.sub(r"[^a-z0-9]+", "_", table.name.name.lower()).strip("_") or "table"
        name, number = stem, 2
        while name in taken:
            name, number = f"{stem}_{number}", number + 1
        taken.add(name)
        staged.append(Staged(table, name, _change_time(table)))
    return staged


def _change_time(table: Table) -> str | None:
    """The cursor of a table whose changes can be merged: it has a key, and the time of each row's change."""
    if not table.key:
        return None
    times = {c.name for c in table.columns if pa.types.is_timestamp(c.type) and not c.nullable}
    return next((name for name in _CHANGE_TIMES if name in times), None)


def sources_yaml(staged: Sequence[Staged], schema: str | None) -> str:
    place = f", schema: {_yaml(schema)}" if schema else ""
    lines = [
        "version: 2",
        "",
        "sources:",
        f"  - name: {SOURCE}                    # a ghost source: its rows live in another database",
        f"    schema: {SOURCE}_landing          # where its rows land in the warehouse",
        "    config:",
        "      meta:",
        f"        bridge: {{origin: {ORIGIN}{place}, replication: initial_copy}}",
        "    tables:",
    ]
    for one in staged:
        lines.append(f"      - name: {_yaml(one.name)}")
        if one.name != one.table.name.name:
            lines.append(f"        identifier: {_yaml(one.table.name.name)}")
        if one.cursor:
            bridge = f"{{replication: incremental, cursor: {_yaml(one.cursor)}}}"
            lines.append(f"        config: {{meta: {{bridge: {bridge}}}}}")
    return "\n".join(lines) + "\n"


def tests_yaml(staged: Sequence[Staged]) -> str:
    """A key of one column is unique and not NULL."""
    lines = ["version: 2", "", "models:"]
    for one in staged:
        lines.append(f"  - name: {one.model}")
        if len(one.table.key) == 1:
            key = one.table.key[0]
            quoting = [] if _is_plain(key) else ["        quote: true"]
            lines += [
                "    columns:",
                f"      - name: {_yaml(key)}",
                *quoting,
                "        data_tests: [not_null, unique]",
            ]
    return "\n".join(lines) + "\n"


def staging_sql(one: Staged) -> str:
    columns = ",\n".join(f"    {_in_sql(column.name)}" for column in one.table.columns)
    return f"select\n{columns}\nfrom {_source(one)}\n"


def counts_sql(staged: Sequence[Staged]) -> str:
    counts = "\nunion all\n".join(
        f"select '{one.model}' as model, count(*) as row_count from {{{{ ref('{one.model}') }}}}"  # noqa: S608
        for one in staged
    )
    return f"-- How many rows every table has: a first model, to be replaced by yours.\n{counts}\n"


def _source(one: Staged) -> str:
    return f"{{{{ source('{SOURCE}', '{one.name}') }}}}"


def _is_plain(name: str) -> bool:
    """Whether a column needs no quotes."""
    return re.fullmatch(r"[a-z_][a-z0-9_]*", name) is not None and name not in _RESERVED


def _in_sql(name: str) -> str:
    return name if _is_plain(name) else _unrendered(quote_identifier(name))


def _unrendered(text: str) -> str:
    """The text as dbt shall read it, where it looks like Jinja: an expression whose value it is."""
    return f"{{{{ {text!r} }}}}" if re.search(r"\{[{%#]", text) else text


def _yaml(value: str) -> str:
    """A plain scalar where YAML keeps it as text, else a quoted one (a JSON string is one)."""
    word = re.fullmatch(r"[a-z_][a-z0-9_]*", value) and value not in _NOT_TEXT
    return value if word else json.dumps(_unrendered(value), ensure_ascii=False)


_NOT_TEXT = ("y", "n", "yes", "no", "on", "off", "true", "false", "null")

# Words that neither DuckDB nor PostgreSQL takes as a column's name without quotes (PostgreSQL manual, appendix C).
_RESERVED_WORDS = (
    "all analyse analyze and any array as asc asymmetric both case cast check collate column constraint create "
    "current_catalog current_date current_role current_time current_timestamp current_user default deferrable desc "
    "describe distinct do else end except false fetch for foreign from grant group having in initially intersect into "
    "lambda lateral leading limit localtime localtimestamp not null offset on only or order pivot pivot_longer "
    "pivot_wider placing primary qualify references returning select session_user show some summarize symmetric table "
    "then to trailing true union unique unpivot user using variadic when where window with"
)
_RESERVED = frozenset(_RESERVED_WORDS.split())
