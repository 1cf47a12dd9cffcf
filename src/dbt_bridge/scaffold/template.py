"""`dbt-bridge init`: a dbt project that works, from the template that lies beside this file."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from dbt_bridge.errors import BridgeError, UsageError
from dbt_bridge.scaffold.render import list_templates, render_template

# A template must not act on the repository that holds it, so these lie there under other names.
_REAL_NAMES = {"gitignore": ".gitignore", "dlt": ".dlt"}

_SECRET = 0o600
_EXAMPLE_ORIGIN = "postgresql://user:password@localhost:5432/shop"
_EXAMPLE_DELIVERY = "postgresql://user:password@localhost:5432/crm"


@dataclass(frozen=True, slots=True)
class Answers:
    """What a new project needs to know.

    Attributes:
        name: dbt's project name.
        origin_url: of the database that the sources live in; it goes to `.dlt/secrets.toml` alone.
        delivery_url: of the database that the exposure goes to.
        warehouse: the DuckDB file, relative to the project.
    """

    name: str = "shop"
    origin_url: str = _EXAMPLE_ORIGIN
    delivery_url: str = _EXAMPLE_DELIVERY
    warehouse: str = "shop.duckdb"


def write_project(directory: Path, answers: Answers, template: str = "shop") -> list[Path]:
    """Write a project: sources, models, tests, connections.

    Args:
        template: `shop`, the whole of it into DuckDB, or `lakehouse`, into Delta tables that dbt-duckdb reads.

    Returns the files, relative to `directory`, sorted.

    Raises:
        UsageError: the name is none that dbt takes, or a file is there already. Nothing was written.
    """
    return write_files(directory, render_project(template, answers))


def render_project(template: str, answers: Answers, *, over: str | None = None) -> dict[Path, str]:
    """A project's files, by path relative to the project: the template's, with the answers filled in.

    Args:
        over: a second template, whose files stand in the place of the first one's.
    """
    if not re.fullmatch(r"[a-z_][a-z0-9_]*", answers.name):
        raise UsageError(
            f"{answers.name!r} cannot name a dbt project",
            mend="use lower-case letters, digits and underscores: dbt-bridge init --name my_project",
        )
    return {
        Path(*(_REAL_NAMES.get(part, part) for part in path.parts)): render_template(
            f"{folder}/{path}", asdict(answers)
        )
        for folder in ("common", template, over)
        if folder
        for path in list_templates(folder)
    }


def write_files(directory: Path, files: Mapping[Path, str]) -> list[Path]:
    """Write all of the files, or none where one exists already or the disk refuses."""
    taken = sorted(str(path) for path in files if os.path.lexists(directory / path))
    if taken:
        shown = ", ".join(taken[:5]) + (f" and {len(taken) - 5} more" if len(taken) > 5 else "")
        raise UsageError(
            f"{directory} has files of these names already: {shown}; nothing was written",
            mend="name another folder: dbt-bridge init DIR",
        )
    written: list[Path] = []
    new_folders = _list_missing_folders(directory, files)
    try:
        for path, text in files.items():
            target = directory / path
            target.parent.mkdir(parents=True, exist_ok=True)
            mode = _SECRET if path.name == "secrets.toml" else 0o666
            descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
            with os.fdopen(descriptor, "w", encoding="utf-8") as out:
                written.append(target)
                out.write(text)
    except BaseException as error:
        _remove_written(written, new_folders)
        if isinstance(error, OSError):
            raise BridgeError(
                f"the project could not be written to {directory}: {error.strerror}; nothing of it is left there",
                mend="name a folder that can be written: dbt-bridge init DIR",
            ) from error
        raise
    return sorted(files)


def _list_missing_folders(directory: Path, files: Mapping[Path, str]) -> set[Path]:
    return {folder for path in files for folder in (directory / path).parents if not folder.exists()}


def _remove_written(written: list[Path], new_folders: set[Path]) -> None:
    for file in written:
        file.unlink(missing_ok=True)
    for folder in sorted(new_folders, reverse=True):
        with suppress(OSError):  # it was never made, or holds something else meanwhile
            folder.rmdir()
