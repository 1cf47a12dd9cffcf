"""What `doctor` says of the place where a project runs: what is installed, and who else may read its secrets."""

from __future__ import annotations

import re
import shlex
import shutil
import stat
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import Distribution, PackageNotFoundError, distribution, version
from pathlib import Path
from typing import Literal

from dbt_bridge.nouns.project import DbtOptions
from dbt_bridge.project.reading.output import find_profiles_file

Status = Literal["ok", "note", "fault"]

_OURS = "dbt-bridge"
_PACKAGES = (_OURS, "dbt-core", "dlt", "pyarrow", "duckdb", "dbt-duckdb", "dbt-postgres", "psycopg")
_SECRETS = ".dlt/secrets.toml"
# A key that holds a secret in a profile, with a value of its own and not one of the environment.
_OPEN_SECRET = re.compile(
    r"(?im)^[^#\n]*\b\w*(?:pass|password|passphrase|token|private_key|secret|secret_access_key)[\"']?[ \t]*:"
    r"[ \t]*[\"']?(?!\s*\{\{)[^\s\"'#,}]"
)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        subject: `origin shop_pg`, `source.shop.orders`, ...
        mend: the command, SQL or line of YAML that mends a fault.
    """

    subject: str
    status: Status
    what: str
    mend: str = ""


def check_installation() -> Iterator[Finding]:
    """The versions of what a run is made of, and whether it is this project that is installed under its name."""
    known = []
    for package in _PACKAGES:
        try:
            known.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    yield Finding("versions", "ok", ", ".join(known))
    try:
        yield from _check_name(distribution(_OURS))
    except PackageNotFoundError:
        return  # the code is used without being installed


def _check_name(installed: Distribution) -> Iterator[Finding]:
    """PyPI has another project under this one's name, with a module of this one's name: 0.1.5 has no entry points."""
    if any(point.group == "dbt_bridge.connectors" for point in installed.entry_points):
        return
    yield Finding(
        _OURS,
        "fault",
        f"what is installed under this name is another project of PyPI, {installed.version}",
        "pip uninstall dbt-bridge, then install this one from its repository or its wheel (docs/install.md)",
    )


def check_secrets(root: Path) -> Iterator[Finding]:
    """The file of secrets: readable, for nobody else, and kept out of git."""
    file = root / _SECRETS
    if not file.exists():
        yield Finding(_SECRETS, "note", "is absent: credentials come from the environment or a vault")
        return
    try:
        file.read_bytes()
    except OSError as error:
        yield Finding(_SECRETS, "fault", f"cannot be read: {error.strerror}", f"chmod u+r {shlex.quote(str(file))}")
        return
    if open_to := find_others(file):
        yield _report_open(_SECRETS, file, open_to)
    git = shutil.which("git")
    if git is None or _run_git(git, root, "rev-parse", "--is-inside-work-tree"):
        yield Finding(_SECRETS, "ok", "is readable; the project is not in a git repository")
    elif not _run_git(git, root, "ls-files", "--error-unmatch", _SECRETS):
        mend = f"git rm --cached {_SECRETS} && echo {_SECRETS} >> .gitignore; then change the passwords"
        yield Finding(_SECRETS, "fault", "is committed to git, with its passwords", mend)
    elif _run_git(git, root, "check-ignore", "-q", _SECRETS):
        yield Finding(_SECRETS, "fault", "is not ignored by git", f"echo {_SECRETS} >> .gitignore")
    else:
        yield Finding(_SECRETS, "ok", "is readable, and git ignores it")


def check_profile(options: DbtOptions) -> Iterator[Finding]:
    """dbt's profiles.yml: written by nobody else, and where it holds a password itself, read by nobody else."""
    file = find_profiles_file(options)
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return  # dbt, which has read the project, says so
    open_to = find_others(file)
    if open_to == "read" and not _OPEN_SECRET.search(text):
        return
    if open_to:
        yield _report_open("profiles.yml", file, open_to)


def find_others(file: Path) -> str:
    """What users who are neither the owner nor in the file's group may do with it: `read`, `write`, both, or nothing.

    A folder that they may not enter keeps them from it; one that they may write in lets them put another file there.
    """
    file = file.resolve()
    try:
        mode, above = file.stat().st_mode, [folder.stat().st_mode for folder in file.parents]
    except OSError:
        return ""
    if not all(folder & stat.S_IXOTH for folder in above):
        return ""
    replaced = bool(above[0] & stat.S_IWOTH and not above[0] & stat.S_ISVTX)
    may = {"read": mode & stat.S_IROTH, "write": mode & stat.S_IWOTH or replaced}
    return " and ".join(what for what, allowed in may.items() if allowed)


def _report_open(name: str, file: Path, open_to: str) -> Finding:
    mend = f"chmod o-w {shlex.quote(str(file.parent))} && chmod o-rw {shlex.quote(str(file))}"
    return Finding(f"{name}, permissions", "fault", f"other users of this machine may {open_to} it", mend)


def _run_git(git: str, root: Path, *arguments: str) -> int:
    """git's exit code."""
    command = [git, "-C", str(root), *arguments]
    try:
        done = subprocess.run(command, check=False, capture_output=True, stdin=subprocess.DEVNULL, timeout=60)
    except subprocess.TimeoutExpired:  # a file system that does not answer: git has nothing to say
        return 1
    return done.returncode
