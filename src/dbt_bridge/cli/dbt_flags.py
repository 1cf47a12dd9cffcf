"""dbt's own flags as options of the commands, and what is said where one means nothing to a command."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import click

from dbt_bridge.nouns.dbt_flags import FLAGS, DbtFlag, FlagValue, Reach, check_flags

_OURS_OF_BUILD = ("--full-refresh", "-f", "--until-lsn", "--max-seconds")


def _make_option(flag: DbtFlag) -> Callable[..., Any]:
    spellings = [f"--{flag.name}" + (f"/--no-{flag.name}" if flag.form == "switch" else ""), *flag.aliases]
    settings: dict[str, Any] = {"help": flag.help, "hidden": not flag.shown, "default": None}
    if flag.form == "mark":
        settings["is_flag"] = True
    elif flag.form == "values":
        settings |= {"multiple": True, "metavar": "TYPE"}
    elif flag.form == "value":
        settings["metavar"] = f"[{'|'.join(flag.choices)}]" if flag.choices else flag.takes
    return click.option(*spellings, flag.key, **settings)


def _make_options(*reaches: Reach) -> tuple[Callable[..., Any], ...]:
    return tuple(_make_option(flag) for flag in FLAGS if flag.reach in reaches)


SELECTION_FLAGS = _make_options("selection", "project")
BUILD_FLAGS = _make_options("build")


def read_flags(given: Mapping[str, Any]) -> dict[str, FlagValue]:
    """Those of a command's options that are dbt's flags, as they were given."""
    marks = {flag.key for flag in FLAGS if flag.form == "mark"}
    here = {flag.key: given[flag.key] for flag in FLAGS if flag.key in given}
    return check_flags({key: value for key, value in here.items() if not (key in marks and value is False)})


_TAKE_A_VALUE = {"--target", "-t", "--profile"} | {
    spelling for flag in FLAGS if flag.form in ("value", "values") for spelling in (f"--{flag.name}", *flag.aliases)
}
_ABOUT_US = ("-h", "--help", "--version", "--")


def move_behind_command(arguments: Iterable[str]) -> list[str]:
    """dbt takes flags before its command, too: `--no-use-colors build` is `build --no-use-colors`."""
    rest = list(arguments)
    flags: list[str] = []
    while rest and rest[0].startswith("-") and rest[0] not in _ABOUT_US:
        flags.append(rest.pop(0))
        if flags[-1] in _TAKE_A_VALUE and rest:
            flags.append(rest.pop(0))
    words = 2 if rest[:2] == ["slots", "drop"] else 1
    return [*rest[:words], *flags, *rest[words:]]


_SPREAD = {
    **dict.fromkeys(("--select", "-s", "--models", "--model", "-m"), "--select"),
    "--exclude": "--exclude",
    **{f"--{flag.name}": f"--{flag.name}" for flag in FLAGS if flag.form == "values"},
    **{alias: f"--{flag.name}" for flag in FLAGS if flag.form == "values" for alias in flag.aliases},
}


def spread_values(arguments: Iterable[str]) -> list[str]:
    """dbt takes several values after one flag: `--select a b` is `--select a --select b`."""
    spread: list[str] = []
    flag: str | None = None
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if name in _SPREAD and (equals or argument == name):
            flag = _SPREAD[name]
            spread += [flag, value] if equals else [flag]
        elif flag and not argument.startswith("-"):
            spread += [argument] if spread[-1] == flag else [flag, argument]
        else:
            flag = None
            spread.append(argument)
    return spread


def explain_unknown(option: str, command: str) -> tuple[str, str] | None:
    """What to say of an option that a command does not have, and dbt's build does; None where that has none either."""
    spellings = {s for flag in FLAGS for s in (f"--{flag.name}", f"--no-{flag.name}", *flag.aliases)}
    name = option.partition("=")[0]
    if name not in spellings | set(_OURS_OF_BUILD):
        return None
    return (
        f"{command} has no {name}: it builds nothing, so that would mean nothing to it",
        f"leave it out here; the command that takes it: dbt-bridge build {name}",
    )
