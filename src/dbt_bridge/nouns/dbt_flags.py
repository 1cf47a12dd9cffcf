"""dbt's own flags beyond those that every command names: what each is called, what it takes, which of dbt's commands
take it.

They are handed to dbt as they were given: what a value means, and whether it is one, is dbt's to say.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal

from dbt_bridge.errors import UsageError

Reach = Literal["project", "selection", "build"]
"""Which of dbt's commands take a flag: every one; those that select (`ls`, `build`); `build` alone."""

FlagValue = str | bool | tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DbtFlag:
    """One flag.

    Attributes:
        name: as dbt writes it, without dashes: `resource-type`.
        form: `value` takes one, `values` one each time that it is given, `switch` is on or off (`--no-...`), `mark` is
            on or not there.
        aliases: dbt's other spellings, with dashes.
        shown: whether `--help` of each command lists it; the others are taken all the same.
    """

    name: str
    form: Literal["value", "values", "switch", "mark"]
    reach: Reach
    help: str
    aliases: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    takes: str = "TEXT"
    shown: bool = True

    @property
    def key(self) -> str:
        """The name as an argument in Python: `resource_type`."""
        return self.name.replace("-", "_")

    def spell(self, value: FlagValue) -> list[str]:
        """The flag as dbt's command line takes it."""
        if isinstance(value, bool):
            if value:
                return [f"--{self.name}"]
            return [f"--no-{self.name}"] if self.form == "switch" else []
        return [part for one in ((value,) if isinstance(value, str) else value) for part in (f"--{self.name}", one)]


FLAGS = (
    DbtFlag("selector", "value", "selection", "A selector of selectors.yml.", takes="NAME"),
    DbtFlag("resource-type", "values", "selection", "Only nodes of this type, as in dbt.", ("--resource-types",)),
    DbtFlag("exclude-resource-type", "values", "selection", "No nodes of this type.", ("--exclude-resource-types",)),
    DbtFlag("indirect-selection", "value", "selection", "Which tests come with what is selected, as in dbt.",
            choices=("eager", "cautious", "buildable", "empty")),
    DbtFlag("state", "value", "selection", "Folder of another run's artifacts, as in dbt.", takes="FOLDER"),
    DbtFlag("defer", "switch", "selection", "Take models that are not selected from --state, as in dbt."),
    DbtFlag("defer-state", "value", "selection", "Another folder than --state, for --defer alone.", takes="FOLDER"),
    DbtFlag("favor-state", "switch", "selection", "With --defer: those of --state, even where they are here too."),
    DbtFlag("target-path", "value", "project", "Where dbt writes its artifacts; target by default.", takes="FOLDER"),
    DbtFlag("log-path", "value", "project", "Where dbt writes its log.", takes="FOLDER"),
    DbtFlag("cache-selected-only", "switch", "project", "dbt looks only at schemas of selected nodes.", shown=False),
    DbtFlag("populate-cache", "switch", "project", "dbt looks at what is in the warehouse first.", shown=False),
    DbtFlag("partial-parse", "switch", "project", "dbt parses only what has changed.", shown=False),
    DbtFlag("static-parser", "switch", "project", "dbt's static parser.", shown=False),
    DbtFlag("use-experimental-parser", "switch", "project", "dbt's experimental parser.", shown=False),
    DbtFlag("version-check", "switch", "project", "Heed require-dbt-version.", shown=False),
    DbtFlag("send-anonymous-usage-stats", "switch", "project", "dbt's own statistics.", shown=False),
    DbtFlag("warn-error", "mark", "project", "dbt's warnings are errors.", shown=False),
    DbtFlag("warn-error-options", "value", "project", "Which of dbt's warnings are errors.", shown=False),
    DbtFlag("fail-fast", "switch", "build", "Stop dbt at the first failure.", ("-x",)),
    DbtFlag("event-time-start", "value", "build", "First moment of microbatch models.", shown=False),
    DbtFlag("event-time-end", "value", "build", "End of microbatch models.", shown=False),
    DbtFlag("store-failures", "mark", "build", "Keep the rows that fail tests.", shown=False),
    DbtFlag("empty", "switch", "build", "Build on no rows; nothing is delivered.", shown=False),
    DbtFlag("sample", "value", "build", "Build on a sample of the rows; nothing is delivered.", shown=False),
    DbtFlag("show", "mark", "build", "Show some rows of seeds.", shown=False),
    DbtFlag("log-level", "value", "build", "What dbt prints.", shown=False),
    DbtFlag("log-level-file", "value", "build", "What dbt writes to its log.", shown=False),
    DbtFlag("log-format", "value", "build", "How dbt prints.", shown=False),
    DbtFlag("log-format-file", "value", "build", "How dbt writes its log.", shown=False),
    DbtFlag("log-cache-events", "switch", "build", "Log what dbt's cache does.", shown=False),
    DbtFlag("print", "switch", "build", "Show what macros print.", shown=False),
    DbtFlag("printer-width", "value", "build", "Width of what dbt prints.", shown=False),
    DbtFlag("use-colors", "switch", "build", "Colours in what dbt prints.", shown=False),
    DbtFlag("use-colors-file", "switch", "build", "Colours in dbt's log.", shown=False),
    DbtFlag("show-all-deprecations", "switch", "build", "Each deprecation each time.", shown=False),
    DbtFlag("record-timing-info", "value", "build", "Where dbt writes how long it took.", ("-r",), shown=False),
    DbtFlag("write-json", "switch", "build", "Whether dbt writes its artifacts.", shown=False),
    DbtFlag("upload-to-artifacts-ingest-api", "switch", "build", "Whether dbt uploads its artifacts.", shown=False),
)  # fmt: skip

_BY_KEY = {flag.key: flag for flag in FLAGS}


def spell_flags(given: Mapping[str, FlagValue], *reaches: Reach) -> list[str]:
    """The flags that were given, as one of dbt's commands takes them.

    Args:
        given: by `DbtFlag.key`.
        reaches: of that command.
    """
    return [
        part for flag in FLAGS if flag.reach in reaches and flag.key in given for part in flag.spell(given[flag.key])
    ]


def check_flags(given: Mapping[str, object]) -> dict[str, FlagValue]:
    """The flags of a call from Python; those that are None are left to dbt, paths and numbers become texts.

    Raises:
        UsageError: dbt has no such flag.
    """
    checked: dict[str, FlagValue] = {}
    for key, value in given.items():
        if key not in _BY_KEY:
            nearest = get_close_matches(key, _BY_KEY, n=1)
            raise UsageError(
                f"dbt's build has no flag {key!r}, or it is an argument of its own here",
                mend=f"did you mean {nearest[0]!r}?" if nearest else "dbt build --help",
            )
        if value is None or value == ():
            continue
        if isinstance(value, bool):
            checked[key] = value
        elif isinstance(value, tuple | list | set | frozenset):
            checked[key] = tuple(map(str, value))
        else:
            checked[key] = (str(value),) if _BY_KEY[key].form == "values" else str(value)
    return checked
