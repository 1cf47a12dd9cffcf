"""What dbt said of a project is taken again while all is as it was that dbt looks at, and never otherwise."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from dbt_bridge.nouns.project import DbtOptions
from dbt_bridge.project import load
from dbt_bridge.project.load import load_project
from dbt_bridge.project.reading.rendering import NotRendered, Renderer
from dbt_bridge.project.runners.module import ModuleRunner

FILES = {
    "dbt_project.yml": "{name: shop, profile: shop, vars: {wanted: one}}",
    "profiles.yml": """
shop:
  target: "{{ env_var('SHOP_TARGET', 'dev') }}"
  outputs:
    dev: {type: duckdb, path: "{{ env_var('SHOP_FILE', 'shop.duckdb') }}", threads: "{{ '2' | as_number }}"}
    prod: {type: duckdb, path: prod.duckdb}
""",
    "models/one.sql": "{{ config(tags=[env_var('SHOP_TAG', 'none')]) }} select '{{ flags.WHICH }}' as which",
    "models/two.sql": "{{ config(enabled=var('wanted') == 'two') }} select 1 as id",
    "macros/later.sql": "{% macro later() %}later{% endmacro %}",
    "seeds/some.csv": "id\n1\n",
}


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DbtOptions:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    return DbtOptions(project_dir=tmp_path, profiles_dir=tmp_path)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What dbt was asked, each time that it was."""
    calls: list[str] = []

    class Counted(ModuleRunner):
        def parse(self, options: DbtOptions) -> load.Parsed:
            calls.append("parse")
            return super().parse(options)

        def list_selected(self, options: DbtOptions) -> frozenset[str]:
            calls.append("ls")
            return super().list_selected(options)

    monkeypatch.setattr(load.invoke, "choose_runner", lambda _: Counted())
    return calls


def test_an_unchanged_project_needs_no_dbt_and_is_the_same(shop: DbtOptions, asked: list[str]) -> None:
    first = load_project(shop)
    (kept,) = (shop.project_dir / "target" / "dbt_bridge").iterdir()
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    (shop.project_dir / "models" / "one.sql").touch()
    again = load_project(shop)
    assert asked == ["parse"]
    assert (again, again.graph) == (first, first.graph)
    assert again.warehouse.threads == 2
    assert [node.name for node in again.graph.list_nodes("model")] == ["one"]

    selecting = replace(shop, select=("one",))
    assert [load_project(selecting).selected for _ in range(2)] == [{"model.shop.one"}] * 2
    assert asked == ["parse", "ls", "parse"], "ls of this process needs the project parsed"


def write(name: str, text: str) -> Callable[[Path, pytest.MonkeyPatch], None]:
    def change(root: Path, _: pytest.MonkeyPatch) -> None:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)

    return change


def keep_times(root: Path, _: pytest.MonkeyPatch) -> None:
    """As `cp -p` or `rsync -t` of another version with the same length."""
    file = root / "seeds" / "some.csv"
    before = file.stat()
    file.write_text("id\n2\n")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


CHANGES = {
    "a variable that a model reads": lambda _, env: env.setenv("SHOP_TAG", "nightly"),
    "a variable that the profile reads": lambda _, env: env.setenv("SHOP_TARGET", "prod"),
    "dbt's environment": lambda _, env: env.setenv("DBT_FULL_REFRESH", "1"),
    "a model": write("models/one.sql", "select 1 as id"),
    "a new model": write("models/deep/three.sql", "select 3 as id"),
    "a macro": write("macros/later.sql", "{% macro later() %}sooner{% endmacro %}"),
    "a seed with its old times": keep_times,
    "the project": write("dbt_project.yml", "{name: shop, profile: shop, vars: {wanted: two}}"),
    "the profile": write("profiles.yml", "shop: {target: dev, outputs: {dev: {type: duckdb, path: x.duckdb}}}"),
    "selectors": write("selectors.yml", "selectors: []"),
    "a package": write("dbt_packages/pack/dbt_project.yml", "{name: pack, version: 1.0.0}"),
    "no file": lambda root, _: [f.unlink() for f in (root / "target" / "dbt_bridge").iterdir()],
    "a torn file": lambda root, _: [f.write_text(f.read_text()[:-9]) for f in (root / "target/dbt_bridge").iterdir()],
    "a foreign file": lambda root, _: [f.write_text("[1]") for f in (root / "target/dbt_bridge").iterdir()],
}


@pytest.fixture(scope="module")
def parsed_shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("parsed")
    for name, text in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    load_project(DbtOptions(project_dir=root, profiles_dir=root))
    return root


def test_whatever_changes_is_noticed(parsed_shop: Path, asked: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """One after the other: each change is one question more, and then there is none. Whatever dbt is asked here, it
    answers what it answered first: that it was asked is the matter."""
    options = DbtOptions(project_dir=parsed_shop, profiles_dir=parsed_shop)
    first = replace(ModuleRunner().parse(options), warehouse=None)
    answer = lambda *_: replace(first, target=os.environ.get("SHOP_TARGET", "dev"))  # noqa: E731
    monkeypatch.setattr(ModuleRunner, "parse", answer)

    def parses() -> int:
        before = asked.count("parse")
        load_project(options)
        return asked.count("parse") - before

    for what, change in CHANGES.items():
        with pytest.MonkeyPatch.context() as environment:
            change(parsed_shop, environment)
            assert [parses(), parses()] == [1, 0], what
        if "environment" in what or "variable" in what:
            assert parses() == 1, f"{what} is as before"


def test_what_no_json_has_is_the_same_before_and_after(shop: DbtOptions, asked: list[str]) -> None:
    (shop.project_dir / "models" / "all.yml").write_text(
        "models: [{name: one, config: {meta: {sub: {1: a, no: 2026-01-02, 2026-01-03: b}}}}]"
    )
    parsed, again = load_project(shop), load_project(shop)
    assert asked == ["parse"]
    assert parsed.graph.nodes["model.shop.one"].meta == {"sub": {"1": "a", "false": "2026-01-02", "2026-01-03": "b"}}
    assert again.graph.nodes == parsed.graph.nodes


def test_options_have_answers_of_their_own(shop: DbtOptions, asked: list[str]) -> None:
    load_project(shop)
    two = load_project(replace(shop, vars={"wanted": "two"}))
    assert {node.name for node in two.graph.list_nodes("model")} == {"one", "two"}
    assert load_project(replace(shop, target="prod")).warehouse.database == "prod"
    assert {node.name for node in load_project(shop).graph.list_nodes("model")} == {"one"}
    assert asked == ["parse"] * 3


def test_the_profile_that_the_environment_names_is_read(
    shop: DbtOptions, asked: list[str], tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere, nothing = tmp_path_factory.mktemp("profiles"), tmp_path_factory.mktemp("nothing")
    (elsewhere / "profiles.yml").write_text("shop: {outputs: {default: {type: duckdb, path: elsewhere.duckdb}}}")
    monkeypatch.chdir(nothing)
    monkeypatch.setenv("HOME", str(nothing))
    monkeypatch.setenv("DBT_PROFILES_DIR", str(elsewhere))
    assert load_project(DbtOptions(project_dir=shop.project_dir)).warehouse.database == "elsewhere"
    monkeypatch.delenv("DBT_PROFILES_DIR")
    assert load_project(DbtOptions(project_dir=shop.project_dir)).warehouse.database == "shop"


def test_nothing_is_kept_where_dbt_is_to_parse_everything(
    shop: DbtOptions, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    load_project(shop)
    load_project(replace(shop, flags={"partial_parse": False}))
    monkeypatch.setenv("DBT_PARTIAL_PARSE", "0")
    load_project(shop)
    assert asked == ["parse"] * 3


def test_no_secret_is_kept(shop: DbtOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DBT_ENV_SECRET_TOKEN", "s3cr3t-token")
    monkeypatch.setenv("SHOP_PASSWORD", "pa55word")
    profile = "{type: duckdb, path: s.duckdb, settings: {a: \"{{ env_var('SHOP_PASSWORD') }}\"}}"
    (shop.project_dir / "profiles.yml").write_text(f"shop: {{target: dev, outputs: {{dev: {profile}}}}}")
    load_project(replace(shop, vars={"key": "in-the-vars"}))
    kept = [file.read_text() for file in (shop.project_dir / "target" / "dbt_bridge").iterdir()]
    assert kept
    assert not any(secret in text for text in kept for secret in ("s3cr3t", "pa55word", "in-the-vars"))
    assert "variables" in json.loads(kept[0])


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("plain", "plain"),
        ("{{ env_var('A') }}", "1"),
        ("{{ env_var('A') | as_number }}", 1),
        ("{{ env_var('A') | int + 1 }}", 2),
        ("{{ env_var('B', 'x') }}-{{ var('v') }}", "x-7"),
        ("{{ var('v') }}", 7),
        ("{{ env_var('NO', 'True') | as_bool }}", True),
        ("{{ env_var('DBT_ENV_SECRET_S') }}", "hidden"),
        ("p{{ env_var('DBT_ENV_SECRET_S') }}", "phidden"),
        ("{% if var('v') == 7 %}seven{% endif %}", "seven"),
        ("line\n", "line"),
    ],
)
def test_templates_give_what_dbt_gives(text: str, value: object, monkeypatch: pytest.MonkeyPatch) -> None:
    from dbt.config.renderer import ProfileRenderer
    from dbt_common.context import set_invocation_context

    monkeypatch.setenv("A", "1")
    monkeypatch.setenv("DBT_ENV_SECRET_S", "hidden")
    set_invocation_context(dict(os.environ))
    assert Renderer({"v": 7}, may_read_secrets=True).render({"k": [text]}) == {"k": [value]}
    assert ProfileRenderer({"v": 7}).render_data({"k": [text]}) == {"k": [value]}


@pytest.mark.parametrize("text", ["{{ modules.re }}", "{{ env_var('NOT_THERE') }}", "{{ target }}", "{{ 1 + }}"])
def test_what_only_dbt_can_render_is_left_to_it(text: str) -> None:
    with pytest.raises(NotRendered):
        Renderer({}).render(text)
