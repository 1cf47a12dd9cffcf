"""dbt's options, as the command lines of `dbt parse`, `dbt ls` and `dbt build` take them."""

from __future__ import annotations

import json

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


def spell_build(options: DbtOptions) -> list[str]:
    """All that `build` takes."""
    arguments = [*spell_project(options), *spell_selection(options), *spell_flags(options.flags, "build")]
    if options.full_refresh:
        arguments.append("--full-refresh")
    if options.threads is not None:
        arguments += ["--threads", str(options.threads)]
    return arguments
