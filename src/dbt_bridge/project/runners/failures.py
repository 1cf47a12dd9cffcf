"""What dbt says when it fails, as our errors: the same ones whichever runner heard it."""

from __future__ import annotations

import re

from dbt_bridge.errors import MissingExtra, UsageError
from dbt_bridge.nouns.project import DbtOptions

_OF_STACK = re.compile(r"\d+: |at \./")
"""Lines of dbt 2's own stack, which it prints after its messages."""

_ADAPTERS_OF_EXTRAS = frozenset({"duckdb", "postgres", "snowflake", "bigquery", "redshift", "athena", "trino"})
"""The extras that bring dbt's adapter of the same name; the other warehouses' adapters hold dbt-core back."""


def format_said(text: str) -> str:
    """dbt's message, one paragraph, without its decoration."""
    text = text.strip().removeprefix("Encountered an error:")
    lines = (line.strip() for line in text.splitlines())
    return " ".join(line for line in lines if line and not _OF_STACK.match(line))


def describe_parse_failure(said: str, options: DbtOptions, *, of_project: bool = False) -> UsageError:
    """Why a project cannot be read.

    Args:
        said: dbt's message, one paragraph.
        of_project: dbt says that dbt_project.yml itself is at fault.
    """
    if absent := re.search(r"Could not find adapter type (\w+)", said):
        adapter = absent.group(1)
        if adapter in _ADAPTERS_OF_EXTRAS:
            missing = MissingExtra(adapter, f"a dbt profile of type {adapter}")
            return UsageError(missing.what, mend=missing.mend)
        return UsageError(f"dbt has no adapter of the profile's type {adapter}", mend=f"pip install dbt-{adapter}")
    if of_project or "profile" in said.lower():
        return UsageError(
            f"dbt cannot load the project or its profile: {said}",
            mend=f"dbt debug {_format_project_option(options)}".strip(),
        )
    mend = f"dbt parse {_format_project_option(options)}".strip()
    if "Could not render" in said and re.search(r"'(ref|this|source)' is undefined", said):
        mend = (
            "in a `bridge` block write {this} and {ref('model')} with single braces: dbt renders double ones too early"
        )
    return UsageError(f"dbt cannot parse the project: {said}", mend=mend)


def describe_selection_failure(said: str, selection: list[str]) -> UsageError:
    """Why `dbt ls` did not answer.

    Args:
        selection: dbt's own arguments of the selection.
    """
    what = f"dbt does not understand the selection: {said}"
    if "no comparison manifest" in what:
        return UsageError(what, mend="name the folder of the manifest.json to compare with: --state FOLDER")
    return UsageError(what, mend=f"try it: dbt ls {' '.join(selection)}")


def _format_project_option(options: DbtOptions) -> str:
    return "" if options.project_dir.resolve() == options.project_dir.cwd() else f"--project-dir {options.project_dir}"
