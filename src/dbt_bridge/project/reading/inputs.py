"""Everything that dbt looks at when it parses a project, as one fingerprint.

Files count by their content (large ones by size, times and inode): a fingerprint that is the same means that dbt would
say the same, also after `git checkout` or `touch`. What cannot be told of for certain makes a fingerprint that no other
one equals.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dbt_bridge.nouns.project import DbtOptions
from dbt_bridge.project.reading.output import find_profiles_file
from dbt_bridge.project.reading.project_file import read_project_file
from dbt_bridge.system.environment import list_installed

_SUFFIXES = frozenset({".sql", ".yml", ".yaml", ".md", ".csv", ".py", ".js", ".json", ".jinja", ".ipynb"})
_NAMES = frozenset({".dbtignore", ".env"})
_READ_WHOLE = 256 * 1024
"""Bytes; larger files, seeds as a rule, count by what the file system says of them."""

_ENV_VAR = re.compile(rb"env_var")
_NAMED = re.compile(rb"""env_var\s*\(\s*(['"])([^'"]+)\1""")


@dataclass(frozen=True, slots=True)
class Inputs:
    """Where to look.

    Attributes:
        folders: with files of models, macros, seeds, ... of the project and its packages, there or not.
        files: single ones, there or not.
        variables: names of the environment that the files ask for; None for all of the environment, where a name is
            not written out.
    """

    folders: tuple[str, ...]
    files: tuple[str, ...]
    variables: tuple[str, ...] | None


def find_inputs(options: DbtOptions) -> Inputs:
    """What dbt looks at for these options.

    Raises:
        NotRendered: only dbt can tell.
    """
    root = options.project_dir.resolve()
    project = read_project_file(root, options.vars)
    projects = [project, *project.list_packages()]
    folders = tuple(dict.fromkeys(str(folder) for one in projects for folder in one.list_folders()))
    files = [str(one.folder / "dbt_project.yml") for one in projects]
    files += [str(root / name) for name in ("packages.yml", "dependencies.yml", "package-lock.yml", "selectors.yml",
                                            "catalogs.yml", "vars.yml", ".dbtignore", ".env")]  # fmt: skip
    # The folder of packages itself: one that comes or goes is another project.
    installed = [str(project.packages_folder)]
    names: set[str] = set()
    for path in (*_walk(folders, root), *map(Path, files), find_profiles_file(options)):
        found = _find_variables(path)
        if found is None:
            return Inputs(folders, (*files, *installed), None)
        names |= found
    return Inputs(folders, (*files, *installed), tuple(sorted(names)))


def fingerprint(inputs: Inputs, options: DbtOptions, dbt: str, salt: str) -> str:
    """One text of all that is there now.

    Args:
        dbt: which dbt runs, and its version.
        salt: mixed with the files, the options and the environment's values, digested slowly so that none can be
            guessed.
    """
    root = options.project_dir.resolve()
    digest = hashlib.blake2b(digest_size=32)
    digest.update(json.dumps([sys.version, dbt, list_installed("dbt")]).encode())
    for path in (*_walk(inputs.folders, root), *map(Path, inputs.files), find_profiles_file(options)):
        digest.update(f"\0{path}\0".encode("utf-8", "surrogateescape"))
        digest.update(_read(path))
    # profiles.yml and .env may hold secrets themselves, so what the files make goes the slow way, too.
    return _digest_privately([digest.hexdigest(), options_key(options), *_read_environment(inputs.variables)], salt)


def options_key(options: DbtOptions) -> str:
    """The options that dbt parses with, as one text; not its selection."""
    given = [
        str(options.project_dir.resolve()),
        str(find_profiles_file(options)),
        options.profile,
        options.target,
        dict(options.vars),
        options.threads,
        options.full_refresh,
        dict(options.flags),
    ]
    return json.dumps(given, sort_keys=True, default=str)


def _walk(folders: tuple[str, ...], root: Path) -> Iterator[Path]:
    """The files that dbt may read below folders, in order; also those behind links, once."""
    skipped = {str(root / "target"), str(root / "logs"), str(root / "dbt_packages"), str(root / ".git")} - set(folders)
    seen: set[str] = set()
    waiting = list(reversed(folders))
    while waiting:
        folder = waiting.pop()
        real = os.path.realpath(folder)
        if real in seen or folder in skipped:
            continue
        seen.add(real)
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError:
            continue
        for entry in entries:
            if entry.is_dir():
                waiting.append(entry.path)
            elif os.path.splitext(entry.name)[1].lower() in _SUFFIXES or entry.name in _NAMES:  # noqa: PTH122 - faster
                yield Path(entry.path)


def _read(path: Path) -> bytes:
    try:
        with open(path, "rb") as file:  # noqa: PTH123 - of hundreds of files
            found = os.fstat(file.fileno())
            if found.st_size <= _READ_WHOLE:
                return b"=" + file.read()
            return f"~{found.st_size} {found.st_mtime_ns} {found.st_ctime_ns} {found.st_ino}".encode()
    except IsADirectoryError:
        return json.dumps(sorted(os.listdir(path))).encode()  # noqa: PTH208
    except FileNotFoundError:
        return b"-"
    except OSError:
        return secrets.token_bytes(16)  # not to be read: like nothing that was there before


def _find_variables(path: Path) -> set[str] | None:
    """The variables of the environment that a file asks for; None where a name is not written out."""
    try:
        if path.is_dir() or path.suffix.lower() in (".csv", ".py"):
            return set()
        text = path.read_bytes()
    except FileNotFoundError:
        return set()
    except OSError:
        return None
    named = _NAMED.findall(text)
    return {name.decode("utf-8", "replace") for _, name in named} if len(named) == len(_ENV_VAR.findall(text)) else None


def _read_environment(names: tuple[str, ...] | None) -> list[tuple[str, str | None]]:
    given = os.environ
    own = {name for name in given if name.startswith("DBT_") and not name.startswith("DBT_BRIDGE_")}
    return [(name, given.get(name)) for name in (sorted(given) if names is None else sorted({*names, *own}))]


def _digest_privately(values: list[Any], salt: str) -> str:
    text = json.dumps(values).encode("utf-8", "surrogateescape")
    return hashlib.pbkdf2_hmac("sha256", text, bytes.fromhex(salt), 5_000).hex()
