"""dbt's `--select` and `--exclude`, as the bridge understands them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dbt_bridge.errors import UsageError
from dbt_bridge.nouns.project import DbtOptions, Project
from dbt_bridge.project import load
from dbt_bridge.project.load import load_project
from dbt_bridge.project.runners.module import ModuleRunner
from dbt_bridge.project.selecting.criteria import parse_definition, parse_texts, spell_texts
from dbt_bridge.project.selection import list_build_order, select_downstream

YAML = """
sources:
  - name: shop
    config: {meta: {bridge: {origin: shop_pg, tables: "*"}}}
    tables: [{name: orders, config: {tags: [nightly]}}, {name: customers, columns: [{name: id, data_tests: [unique]}]}]
  - name: erp
    config: {meta: {bridge: {origin: erp_my, tables: "*"}}}
models:
  - name: mart
    columns: [{name: id, data_tests: [not_null]}]
exposures:
  - name: crm
    type: application
    owner: {name: growth, email: growth@example.com}
    depends_on: [ref('mart')]
    config: {meta: {bridge: {destination: crm_pg, write_disposition: replace}}}
"""


PROJECT = {
    "dbt_project.yml": "{name: shop, profile: shop}",
    "profiles.yml": "shop: {target: dev, outputs: {dev: {type: duckdb, path: w.duckdb}}}",
}
FILES = {
    "models/all.yml": YAML,
    "models/stg_orders.sql": "select 1 as id from {{ source('shop', 'orders') }}",
    "models/stg_customers.sql": "select 1 as id from {{ source('shop', 'customers') }}",
    "models/mart.sql": "select id from {{ ref('stg_orders') }}",
}


def write(root: Path, files: Mapping[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.fixture
def root(dbt_root: Path) -> Path:
    return write(dbt_root, FILES)


@pytest.fixture(scope="module")
def parsed_once(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ModuleRunner]:
    return write(tmp_path_factory.mktemp("unchanged"), {**PROJECT, **FILES}), ModuleRunner()


@pytest.fixture
def unchanged(parsed_once: tuple[Path, ModuleRunner], monkeypatch: pytest.MonkeyPatch) -> Path:
    """The project for tests that change nothing of it: dbt parses it for the first of them, and selects for all."""
    root, runner = parsed_once
    monkeypatch.setattr(load.invoke, "choose_runner", lambda _: runner)
    return root


def test_the_selection_is_dbts_and_brings_the_sources_that_it_reads(unchanged: Path) -> None:
    def picked(*select: str, exclude: tuple[str, ...] = ()) -> Project:
        return load_project(DbtOptions(unchanged, profiles_dir=unchanged, select=select, exclude=exclude))

    downstream = picked("source:shop.orders+")
    assert downstream.needed == {"source.shop.shop.orders"}
    assert downstream.selected is not None
    assert {"model.shop.stg_orders", "model.shop.mart", "exposure.shop.crm"} <= downstream.selected
    assert not downstream.needs("source.shop.shop.products"), "an undeclared table that was not named"

    one_model = picked("stg_customers")
    assert one_model.needed == {"source.shop.shop.customers"}

    further_down = picked("mart")
    assert further_down.needed == frozenset(), "what is upstream of the selection is not in it, as in dbt"

    undeclared = picked("source:shop.prod*")
    assert undeclared.needed == frozenset()
    assert undeclared.needs("source.shop.shop.products")
    assert not undeclared.needs("source.shop.shop.orders")
    assert not undeclared.needs("source.shop.erp.products")

    whole = picked("source:shop+", exclude=("source:shop.tmp_*", "mart"))
    assert whole.needs("source.shop.shop.products")
    assert not whole.needs("source.shop.shop.tmp_1")
    assert whole.needs("source.shop.shop.orders")
    assert whole.selected is not None
    assert "model.shop.mart" not in whole.selected

    all_but = picked(exclude=("source:erp",))
    assert all_but.needs("source.shop.shop.products")
    assert not all_but.needs("source.shop.erp.anything")
    needed = {source.name: all_but.needs_source(source) for source in all_but.sources}
    assert needed == {"shop": True, "erp": False}, "an excluded origin is not even opened"


def test_what_reads_a_changed_table_is_selected_whatever_its_name(root: Path) -> None:
    (root / "models" / "odd.yml").write_text(
        "sources: [{name: odd, tables: [{name: order items}, {name: order_items}, {name: a.b}]}]"
    )
    for model, table in (("blank", "order items"), ("word", "order_items"), ("dot", "a.b")):
        (root / "models" / f"{model}.sql").write_text(f"select * from {{{{ source('odd', '{table}') }}}}")  # noqa: S608
    project = load_project(DbtOptions(root, profiles_dir=root))
    changed = ["source.shop.odd.order items", "source.shop.odd.a.b"]
    by_source = select_downstream(project.options, project.graph, changed)
    by_name = select_downstream(project.options, project.graph, changed, frozenset(project.graph.nodes))
    assert by_name is not None and set(by_name.select) == {"fqn:shop.blank", "fqn:shop.dot"}
    for built in (by_source, by_name):
        assert built is not None
        chosen = load_project(built).selected or frozenset()
        assert {node for node in chosen if node.startswith("model.")} == {"model.shop.blank", "model.shop.dot"}


def test_the_order_is_parents_first_with_their_tests(unchanged: Path) -> None:
    project = load_project(DbtOptions(unchanged, profiles_dir=unchanged))
    order = list_build_order(project.graph, None)
    names = [node.name for node in order]
    assert names[0] == "source_unique_shop_customers_id", "a test on a source alone comes first"
    assert names.index("stg_orders") < names.index("mart")
    mart = order[names.index("mart")]
    assert [test.split(".")[2] for test in mart.tests] == ["not_null_mart_id"]


def test_a_selector_that_dbt_does_not_understand_is_refused(unchanged: Path) -> None:
    with pytest.raises(UsageError, match="selection") as refused:
        load_project(DbtOptions(unchanged, profiles_dir=unchanged, select=("nonsense:x",)))
    assert refused.value.mend.endswith("dbt ls --select nonsense:x")


def test_an_exclusion_is_never_touched_whoever_reads_it(unchanged: Path) -> None:
    """The model that reads an excluded source is built, on what landed before; as dbt leaves an excluded model."""

    def needs(**options: Any) -> set[str]:
        project = load_project(DbtOptions(unchanged, profiles_dir=unchanged, **options))
        tables = ("shop.orders", "shop.customers", "shop.unseen", "erp.unseen")
        return {name for name in tables if project.needs(f"source.shop.{name}")}

    assert needs(exclude=("source:shop.customers",)) == {"shop.orders", "shop.unseen", "erp.unseen"}
    assert needs(exclude=("+mart", "source:erp")) == {"shop.customers", "shop.unseen"}
    assert needs(flags={"exclude_resource_type": ("source",)}) == set()
    assert needs(flags={"resource_type": ("model",)}) == {"shop.orders", "shop.customers"}
    assert needs(select=("source:shop,tag:nightly",), exclude=("x",)) == {"shop.orders"}, "dbt knows no tag of theirs"
    assert needs(select=("package:shop,source:e*",)) == {"erp.unseen"}
    assert needs(select=("path:models",), exclude=("source:*.un*",)) == {"shop.orders", "shop.customers"}
    assert needs(select=("@source:shop.unseen",)) == {"shop.unseen"}


def test_a_source_behind_ephemeral_models_is_needed(root: Path) -> None:
    for name, above in (("between", "stg_orders"), ("again", "between")):
        text = "{{ config(materialized='ephemeral') }} select id from {{ ref('above') }}".replace("above", above)
        (root / "models" / f"{name}.sql").write_text(text)
    (root / "models" / "stg_orders.sql").write_text(
        "{{ config(materialized='ephemeral') }} select 1 as id from {{ source('shop', 'orders') }}"
    )
    (root / "models" / "mart.sql").write_text("select id from {{ ref('again') }}")
    assert load_project(DbtOptions(root, profiles_dir=root, select=("mart",))).needed == {"source.shop.shop.orders"}


SELECTORS = """
selectors:
  - name: nightly
    definition:
      union:
        - {method: fqn, value: mart, parents: true}
        - {method: source, value: erp}
        - exclude: [{method: source, value: erp.tmp_*}]
"""


def test_selectors_yml_is_a_selection_only_where_it_says_so(root: Path) -> None:
    (root / "selectors.yml").write_text("# none yet\n")  # dbt takes it
    everything = load_project(DbtOptions(root, profiles_dir=root))
    (root / "selectors.yml").write_text(SELECTORS)
    assert replace(load_project(DbtOptions(root, profiles_dir=root)), graph=everything.graph) == everything

    chosen = DbtOptions(root, profiles_dir=root, flags={"selector": "nightly"})
    named = load_project(chosen)
    (root / "selectors.yml").write_text(
        SELECTORS.replace("name: nightly", "name: nightly\n    default: \"{{ target.name == 'dev' | as_bool }}\"")
    )
    by_default = load_project(DbtOptions(root, profiles_dir=root))
    for project in (named, by_default):
        assert project.needed == {"source.shop.shop.orders"}
        assert project.selected is not None and "model.shop.mart" in project.selected
        assert project.needs("source.shop.erp.parts")
        assert not project.needs("source.shop.erp.tmp_1")
        assert not project.needs("source.shop.shop.unseen")
    over_it = load_project(DbtOptions(root, profiles_dir=root, select=("source:shop",)))
    assert over_it.needs("source.shop.shop.unseen"), "what is selected stands in place of the default"
    with pytest.raises(UsageError, match="nightlly"):
        load_project(replace(chosen, flags={"selector": "nightlly"}))


@pytest.mark.parametrize(
    ("given", "nearest"),
    [
        ("source:shop.custommers+", None),
        ("source:shp.orders", "source:shop.orders"),
        ("+mrt", "+mart"),
        ("exposure:cmr", "exposure:crm"),
        ("tag:nightli", "tag:nightly"),
    ],
)
def test_a_selection_of_nothing_is_refused_and_names_the_nearest(
    unchanged: Path, given: str, nearest: str | None
) -> None:
    options = DbtOptions(unchanged, profiles_dir=unchanged, select=(given,))
    if nearest is None:
        assert load_project(options).needs("source.shop.shop.custommers"), "the origin may have it: dbt cannot know"
        return
    with pytest.raises(UsageError, match="selects nothing") as refused:
        load_project(options)
    assert refused.value.mend == f"did you mean {nearest}?"


def test_a_definition_of_selectors_yml_is_what_the_command_line_says() -> None:
    definition = {
        "union": [
            {"method": "tag", "value": "a", "parents": True, "parents_depth": 2, "exclude": ["source:shop.t"]},
            "path:models/x+",
            {"method": "selector", "value": "other"},
            {"intersection": [{"method": "source", "value": "s"}, {"union": ["tag:b", "tag:c"]}]},
            {"method": "fqn", "value": "m", "childrens_parents": True},
            {"exclude": [{"method": "source", "value": "z", "children": True}]},
        ]
    }
    other = {"definition": {"config.severity": "warn"}}
    found = parse_definition("nightly", {"nightly": {"definition": definition}, "other": other})
    assert found.included is not None
    assert spell_texts(found.included) == (
        "2+tag:a", "path:models/x+", "config.severity:warn", "source:s,tag:b", "source:s,tag:c", "@fqn:m",
    )  # fmt: skip
    assert spell_texts(found.excluded) == ("source:shop.t", "source:z+")
    assert parse_texts(spell_texts(found.included)) == found.included


chance = Random(4)
MODELS = {f"m{number}": chance.sample(range(number + 4), chance.randint(1, 2)) for number in range(8)}
"""Each reads of four sources (0 to 3) and of the models before it (4, 5, ...)."""
EPHEMERAL = {"m1", "m3", "m4"}


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    tables = ", ".join(f"{{name: t{number}}}" for number in range(4))
    bridge = "config: {meta: {bridge: {origin: shop_pg}}}"
    files = {"models/all.yml": f"sources: [{{name: s, {bridge}, tables: [{tables}]}}]"}
    for name, read in MODELS.items():
        kind = "ephemeral" if name in EPHEMERAL else "table"
        froms = [f"{{{{ source('s', 't{one}') }}}}" if one < 4 else f"{{{{ ref('m{one - 4}') }}}}" for one in read]
        head = "{{ config(materialized='kind') }} select * from ".replace("kind", kind)
        files[f"models/{name}.sql"] = head + ", ".join(froms)
    runner = ModuleRunner()
    with pytest.MonkeyPatch.context() as patch:  # its test is the file's last
        patch.setattr(load.invoke, "choose_runner", lambda _: runner)
        yield write(tmp_path_factory.mktemp("web"), {**PROJECT, **files})


def read_tables(model: str) -> set[str]:
    """Those that a model reads, through ephemeral ones."""
    found: set[str] = set()
    for one in MODELS[model]:
        if one < 4:
            found.add(f"t{one}")
        elif f"m{one - 4}" in EPHEMERAL:
            found |= read_tables(f"m{one - 4}")
    return found


_names = st.sampled_from([*MODELS, *(f"source:s.t{number}" for number in range(4))])
_terms = st.builds("{}{}{}".format, st.sampled_from(["", "+", "1+"]), _names, st.sampled_from(["", "+", "+1"]))
_parts = st.lists(_terms, min_size=1, max_size=2).map(",".join)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(select=st.lists(_parts, min_size=1, max_size=2), exclude=st.lists(st.sampled_from(list(MODELS)), max_size=1))
def test_what_lands_is_what_the_nodes_of_dbt_ls_read(web: Path, select: list[str], exclude: list[str]) -> None:
    try:
        project = load_project(DbtOptions(web, profiles_dir=web, select=tuple(select), exclude=tuple(exclude)))
    except UsageError as refused:
        assert "selects nothing" in refused.what
        return
    assert project.selected is not None and project.needed is not None
    names = {node.rsplit(".", 1)[1] for node in project.selected}
    expected = {name for name in names if name.startswith("t")}.union(*(read_tables(m) for m in names & MODELS.keys()))
    assert {node.rsplit(".", 1)[1] for node in project.needed} == expected
