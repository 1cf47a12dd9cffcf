"""dlt's settings, read without it: the same values and URLs as dlt itself gives."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dbt_bridge.project.reading.dlt_settings import is_plain_url, read_providers

_PART = st.text("abZ9_.-~% @:/+é?", max_size=6)


@given(
    st.builds(
        "{}://{}:{}@{}:{}/{}{}".format,
        st.sampled_from(["postgresql", "mysql+pymysql", "sqlite"]),
        _PART | st.sampled_from(["u%40x", "u%2f", "u%2F"]),
        _PART | st.sampled_from(["p%40", "p%20", "%C3%A9"]),
        st.sampled_from(["host", "db.example.com", "::1", ""]),
        st.sampled_from(["5432", "05", ""]),
        _PART,
        st.sampled_from(["", "?", "?sslmode=require", "?b=1&a=2", "?a=1&a=2", "?a="]),
    )
    | st.sampled_from(["sqlite:///shop.db", "sqlite:////tmp/shop.db", "postgresql://host/shop", "mssql://host"])
)
def test_a_plain_url_is_what_dlt_would_write(url: str) -> None:
    from dlt.common.configuration.specs import ConnectionStringCredentials

    if is_plain_url(url):
        credentials = ConnectionStringCredentials()
        credentials.parse_native_representation(url)
        assert credentials.to_native_representation() == url
        assert credentials.drivername == url.partition("://")[0]


def test_usual_urls_are_plain() -> None:
    for url in ("postgresql://me:p%40ss@db.example.com:5432/shop?sslmode=require", "sqlite:///data/shop.db"):
        assert is_plain_url(url), url


READ = """
import sys
from pathlib import Path
from dbt_bridge.project.origins import list_origins, origin_settings
root = Path(sys.argv[1])
if sys.argv[2] == "dlt":
    import dlt
for name in list_origins(project_root=root):
    found = origin_settings(name, project_root=root)
    print(name, found.url, found.drivername)
print("dlt" in sys.modules)
"""

SECRETS = """
[sources.shop]
credentials = "postgresql://me:secret@host:5432/shop"
[sources.taken]
credentials = "postgresql://file/file"
[destination.crm]
destination_type = "postgres"
"""


def test_without_dlt_the_same_origins_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".dlt").mkdir()
    (tmp_path / ".dlt" / "secrets.toml").write_text(SECRETS)
    (tmp_path / ".dlt" / "config.toml").write_text('[sources.lite]\ncredentials = "sqlite:///shop.db"\n')
    monkeypatch.setenv("SOURCES__TAKEN__CREDENTIALS", "postgresql://environment/wins")
    without, with_dlt = (
        subprocess.run(
            [sys.executable, "-c", READ, tmp_path, how], capture_output=True, text=True, check=True
        ).stdout.splitlines()
        for how in ("plain", "dlt")
    )
    assert without[:-1] == with_dlt[:-1]
    assert "taken postgresql://environment/wins postgresql" in without
    assert (without[-1], with_dlt[-1]) == ("False", "True")


DESTINATIONS = """
import sys
from pathlib import Path
from dbt_bridge.connectors.postgres.connector import _destination_parameters
from dbt_bridge.project.connectors import DESTINATIONS, registry
from dbt_bridge.project.destinations import destination_settings
root = Path(sys.argv[1])
if sys.argv[2] == "dlt":
    import dlt
for name in sys.argv[3:]:
    settings = destination_settings(name, project_root=root)
    where = registry().find(DESTINATIONS, settings.destination_type).identify_destination(settings)
    parameters = _destination_parameters(settings) if settings.destination_type == "postgres" else {}
    print(name, settings.is_configured(), settings.find_setting("ours"), where, sorted(parameters.items()))
print("dlt" in sys.modules)
"""

PLAIN = """
[destination.crm]
destination_type = "postgres"
credentials = "postgresql://me:s%40cret@db.example.com:5433/shop?application_name=x&sslmode=require"
ours = "kept"
[destination.peer]
destination_type = "dlt.destinations.postgres"
credentials = "postgresql://me@localhost/shop"
[destination.duckdb]
credentials = "data/file.duckdb"
[destination.lake]
destination_type = "filesystem"
bucket_url = "lake"
[destination.far]
destination_type = "filesystem"
bucket_url = "/srv/lake/shop"
"""

ODD = """
[destination.port]
destination_type = "postgres"
credentials = "postgresql://me:%C3%A9@host:05432/shop?connect_timeout=3"
[destination.whole]
destination_type = "postgres"
credentials = {host = "host", username = "me", password = "secret", database = "shop"}
[destination.above]
destination_type = "filesystem"
bucket_url = "file:///srv/lake"
"""


def _ask(root: Path, how: str, *names: str) -> list[str]:
    program = [sys.executable, "-c", DESTINATIONS, str(root), how, *names]
    return subprocess.run(program, capture_output=True, text=True, check=True).stdout.splitlines()


def test_without_dlt_a_destination_is_what_dlt_makes_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".dlt").mkdir()
    secrets = tmp_path / ".dlt" / "secrets.toml"
    secrets.write_text(PLAIN + ODD)
    monkeypatch.setenv("DESTINATION__CRM__OURS", "from outside")
    plain, odd = ("crm", "peer", "duckdb", "lake", "far"), ("port", "whole", "above")
    without = _ask(tmp_path, "plain", *plain)
    assert without[-1] == "False"
    assert without[:-1] == _ask(tmp_path, "dlt", *plain)[:-1]
    assert "('host', 'db.example.com'), ('password', 's@cret'), ('port', 5433)" in without[0]
    assert "True from outside" in without[0]
    assert _ask(tmp_path, "plain", *odd) == _ask(tmp_path, "dlt", *odd)

    # A password of its own is laid over a URL without one, from wherever dlt would take it.
    monkeypatch.setenv("CREDENTIALS__PASSWORD", "outside")
    found = _ask(tmp_path, "plain", "peer")
    assert found == _ask(tmp_path, "dlt", "peer")
    assert "('password', 'outside')" in found[0]
    monkeypatch.delenv("CREDENTIALS__PASSWORD")
    secrets.write_text(PLAIN + '[destination.postgres.credentials]\npassword = "of all"\n')
    assert _ask(tmp_path, "plain", "peer")[0] == _ask(tmp_path, "dlt", "peer")[0]


def test_a_vault_or_a_broken_file_is_left_to_dlt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    modules = {name: module for name, module in sys.modules.items() if name != "dlt"}
    monkeypatch.setattr(sys, "modules", modules)
    (tmp_path / ".dlt").mkdir()
    secrets = tmp_path / ".dlt" / "secrets.toml"
    secrets.write_text(SECRETS)
    assert read_providers(tmp_path) is not None
    secrets.write_text("[providers]\nenable_google_secrets = true\n" + SECRETS)
    assert read_providers(tmp_path) is None
    secrets.write_text("[sources")
    assert read_providers(tmp_path) is None
