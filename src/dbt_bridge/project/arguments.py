"""dbt's options, as the command lines of `dbt parse`, `dbt ls` and `dbt build` take them."""

from __future__ import annotations

import json
import shlex

from dbt_bridge.nouns.dbt_flags import spell_flags
from dbt_bridge.nouns.project import DbtOptions


def spell_project(options: DbtOptions) -> list[str]:
    """What every command of dbt takes: the project, its profile, its variables."""
    arguments = ["--project-dir", str(options.project_dir.resolve())]
    if options.profiles_dir is not None:
        arguments += ["--profiles-dir", str(options.profiles_dir.resolve())]
    if options.profile is not None:
        arguments += ["--profile", options.profile]
    if options.target is not None:
        arguments += ["--target", options.target]
    if options.vars:
        arguments += ["--vars", json.dumps(dict(options.vars))]
    return arguments + spell_flags(options.flags, "project")


def spell_selection(options: DbtOptions) -> list[str]:
    """What `ls` and `build` take beyond that."""
    arguments: list[str] = []
    for flag, selectors in (("--select", options.select), ("--exclude", options.exclude)):
        for selector in selectors:
            arguments += [flag, selector]
    return arguments + spell_flags(options.flags, "selection")


def format_selection(options: DbtOptions) -> str:
    """The selection as a shell takes it; empty for none."""
    return shlex.join(spell_selection(options))


_OF_OUTPUT = frozenset({
    "log_level", "log_level_file", "log_format", "log_format_file", "log_cache_events", "print", "printer_width",
    "show", "use_colors", "use_colors_file", "show_all_deprecations", "record_timing_info", "write_json",
    "upload_to_artifacts_ingest_api",
})  # fmt: skip
"""Flags of a build that say what it prints and writes: to look at a project has its own."""


def spell_look(options: DbtOptions) -> list[str]:
    """What a `build` of these options takes, but for its selection and its output: what its models can ask for."""
    flags = {key: value for key, value in options.flags.items() if key not in _OF_OUTPUT}
    return [*spell_project(options), *spell_flags(flags, "build"), *_spell_run(options)]


def spell_build(options: DbtOptions) -> list[str]:
    """All that `build` takes."""
    arguments = [*spell_project(options), *spell_selection(options), *spell_flags(options.flags, "build")]
    return arguments + _spell_run(options)


def _spell_run(options: DbtOptions) -> list[str]:
    arguments: list[str] = []
    if options.full_refresh:
        arguments.append("--full-refresh")
    if options.threads is not None:
        arguments += ["--threads", str(options.threads)]
    return arguments
