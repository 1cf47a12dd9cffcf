"""What templates become: text that says what was meant, whatever the names in it are."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import duckdb
import jinja2
import psycopg
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from dbt_bridge.scaffold.from_origin import quote_where_needed
from dbt_bridge.scaffold.render import list_templates, render_template
from dbt_bridge.scaffold.template import Answers, render_project

# TOML and YAML both hold everything but control characters and YAML's own line breaks.
TEXTS = st.text(st.characters(exclude_characters="\x85\u2028\u2029\ufeff", exclude_categories=("C",)))


@given(TEXTS, TEXTS)
def test_urls_and_files_are_read_as_they_were_given(url: str, file: str) -> None:
    files = render_project("shop", Answers("shop", url, url, file))
    secrets = tomllib.loads(files[Path(".dlt/secrets.toml")])
    assert secrets["sources"]["shop_pg"]["credentials"] == url
    assert yaml.safe_load(files[Path("profiles.yml")])["shop"]["outputs"]["dev"]["path"] == file


@given(st.lists(TEXTS), TEXTS)
def test_a_list_of_tables_is_read_as_it_was_given(names: list[str], schema: str) -> None:
    tables = [{"name": name, "identifier": name, "cursor": None} for name in names]
    values = {"source": "origin", "bridge": {"origin": "o", "schema": schema}, "staged": tables}
    (source,) = yaml.safe_load(render_template("own_tables/_sources.yml", values))["sources"]
    assert source["config"]["meta"]["bridge"] == {"origin": "o", "schema": schema}
    assert [(t["name"], t.get("identifier", "")) for t in source["tables"] or ()] == [(n, n) for n in names]


def test_dbts_own_jinja_stays_as_it_is() -> None:
    files = render_project("shop", Answers())
    assert "{{ source('shop', 'orders') }}" in files[Path("models/staging/stg_orders.sql")]
    assert not [path for path, text in files.items() if "<%" in text]


def test_a_value_that_is_missing_is_an_error_not_an_empty_text() -> None:
    with pytest.raises(jinja2.UndefinedError, match="'name' is undefined"):
        render_template("own/README.md", {})


@pytest.mark.parametrize("folder", ["common", "shop", "shop_cdc", "lakehouse", "own", "own_tables"])
def test_templates_come_with_the_package(folder: str) -> None:
    assert list_templates(folder)


def test_a_column_of_any_name_can_be_selected_in_duckdb_and_in_postgres(origin: psycopg.Connection) -> None:
    """As sqlglot (29) does not say it: it holds `end` and `check` for names."""
    words = {word for (word,) in duckdb.sql("SELECT keyword_name FROM duckdb_keywords()").fetchall()}
    words |= {word for (word,) in origin.execute("SELECT word FROM pg_get_keywords()").fetchall()}
    for name in sorted(words | {"Upper", 'q"uote', "a b", "1st", "ünï", json.dumps("x")}):
        column = quote_where_needed(name)
        quoted = '"' + name.replace('"', '""') + '"'
        relation = f"(SELECT 7 AS {quoted}) AS t"
        assert duckdb.sql(f"SELECT {column} FROM {relation}").fetchall() == [(7,)], name  # noqa: S608
        assert origin.execute(f"SELECT {column} FROM {relation}").fetchall() == [(7,)], name  # noqa: S608


def test_usual_names_stay_without_quotes() -> None:
    names = ["id", "order_id", "name", "date", "status", "value", "updated_at", "year", "type"]
    assert [quote_where_needed(name) for name in names] == names
