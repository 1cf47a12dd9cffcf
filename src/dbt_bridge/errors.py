"""Every error that dbt-bridge raises on purpose.

    BridgeError                 anything below; the command line prints it and exits with 1
    ├── UsageError              the command, the YAML or a call is wrong; exit code 2, nothing was touched
    ├── ConnectionFailed        an origin or a destination cannot be reached or logged in to
    ├── OriginError             the origin refused or broke off: privilege, missing table or column, restart
    ├── TypeRefused             a value or a type cannot be kept exactly at the destination
    ├── KeyRefused              a merge key is absent, NULL or not declared
    ├── DestinationError        the destination refused or broke off: disk full, locked, privilege
    ├── DbtFailed               dbt stopped before its end, or a node of it failed
    └── MissingExtra            an optional dependency is not installed; names the command that installs it

Which of them are worth another try is in `system/retry.py`.

Each message says what happened, where (table, column), and what to do next. Secrets never enter a message:
text that comes from drivers goes through `scrubbed`.
"""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

_OURS = "dbt-bridge"


class BridgeError(Exception):
    """What happened, where, and the next command.

    Args:
        what: one sentence, with the table and column where there is one.
        mend: what the user does next: a command, a line of YAML or a SQL statement.
        role: the word that begins the message where it starts with a database's name: `origin` for "origin 'shop'".

    Attributes:
        what_without_role: the same sentence from the database's name on, for a message that gives it another role.
        table: the landing table that alone is to blame, where several were worked on together; None where it is not one
            of them, or nobody says.
    """

    table: object = None

    def __init__(self, what: str, *, mend: str = "", role: str = "") -> None:
        self.what_without_role = scrubbed(what)
        self.what = f"{role} {self.what_without_role}" if role else self.what_without_role
        self.mend = mend
        super().__init__(self.what)

    def __str__(self) -> str:
        return f"{self.what}\n  -> {self.mend}" if self.mend else self.what


class UsageError(BridgeError):
    """The command, the YAML or a call is wrong. Nothing was touched."""


class ConnectionFailed(BridgeError):
    """An origin or a destination cannot be reached or logged in to."""


class OriginError(BridgeError):
    """The origin refused, or broke off in the middle.

    Attributes:
        broke_off: the server shut down, or the connection to it was lost.
        is_unexplained: only the server's own message says what is wrong, and `mend` points to it.
        sqlstate: the server's code of the error; empty where it gave none, or nobody needs it.
    """

    def __init__(
        self,
        what: str,
        *,
        mend: str = "",
        role: str = "",
        broke_off: bool = False,
        is_unexplained: bool = False,
        sqlstate: str = "",
    ) -> None:
        super().__init__(what, mend=mend, role=role)
        self.broke_off = broke_off
        self.is_unexplained = is_unexplained
        self.sqlstate = sqlstate


class TypeRefused(BridgeError):
    """A value or type cannot be kept exactly at the destination; nothing was written.

    Attributes:
        needs_override: `mend` is a `types:` in the `bridge` block of the table, which only a table that lands has.
        column: of the origin's table, whose value would be kept as text; empty where that is not so, or nobody says.
    """

    def __init__(
        self, what: str, *, mend: str = "", role: str = "", needs_override: bool = False, column: str = ""
    ) -> None:
        super().__init__(what, mend=mend, role=role)
        self.needs_override = needs_override
        self.column = column


class KeyRefused(BridgeError):
    """A merge key is absent, NULL or not declared; nothing was written."""


class DestinationError(BridgeError):
    """The destination refused, or broke off in the middle; it holds what it held before.

    Attributes:
        broke_off: the server shut down, or the connection to it was lost.
    """

    def __init__(self, what: str, *, mend: str = "", role: str = "", broke_off: bool = False) -> None:
        super().__init__(what, mend=mend, role=role)
        self.broke_off = broke_off


class DbtFailed(BridgeError):
    """dbt stopped before its end, or a node of it failed. A project that it cannot parse is a UsageError."""


class MissingExtra(BridgeError):
    """An optional dependency is not installed: an extra of dbt-bridge, or of another package."""

    def __init__(self, extra: str, needed_for: str, *, of: str = _OURS) -> None:
        super().__init__(
            f"{needed_for} needs an optional part of {of} that is not installed: {extra}",
            mend=format_install(extra) if of == _OURS else f"pip install '{of}[{extra}]'",
        )


def format_install(extra: str) -> str:
    """The command that installs what an extra of ours brings. Under our own name PyPI has another project."""
    wanted = list(dict.fromkeys(_list_requirements(extra)))
    if not wanted:  # the package is used without being installed, or was installed before it had that extra
        return f"install dbt-bridge again, with its extra {extra!r} (docs/install.md)"
    return f"pip install {' '.join(map(repr, wanted))}"


def _list_requirements(extra: str) -> Iterator[str]:
    """What the installed package says that an extra needs; extras of its own in it are followed."""
    from importlib.metadata import PackageNotFoundError, requires

    try:
        known = requires(_OURS) or []
    except PackageNotFoundError:
        return
    for line in known:
        needed, _, marker = (part.strip() for part in line.partition(";"))
        if re.sub(r"[\s'\"]", "", marker) != f"extra=={extra}":
            continue
        own = re.fullmatch(rf"{_OURS}\[(.*)\]", needed)
        if own is None:
            yield needed
        else:
            for inner in own[1].split(","):
                yield from _list_requirements(inner.strip())


@contextmanager
def require_extra(extra: str, needed_for: str, *, of: str = _OURS, own: str = "dbt_bridge") -> Iterator[None]:
    """Around the imports of what an extra installs.

    Args:
        extra: that brings it.
        needed_for: for people: `the Postgres origin 'shop_pg'`.
        of: the package whose extra it is.
        own: the module of that package: what is missing inside of it is a fault, and no extra.

    Raises:
        MissingExtra: one of the modules is not installed.
        UsageError: nor does the package say what brings it.
    """
    try:
        yield
    except ImportError as missing:
        if (missing.name or "").partition(".")[0] == own:
            raise
        if not extra:
            raise UsageError(
                f"{needed_for} needs the module {missing.name!r}, which is not installed",
                mend=f"see what {of} says of its installation",
            ) from missing
        raise MissingExtra(extra, needed_for, of=of) from missing


def as_bridge_error(error: Exception, doing: str) -> BridgeError:
    """An error that nobody foresaw, as this package tells errors: without secrets, and with the line that raised it.

    Args:
        doing: what went wrong, to begin the message: `transfer`, or a table's name.
    """
    if isinstance(error, BridgeError):
        return error
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    return DestinationError(
        f"{doing}: {type(error).__name__}: {error}{place}",
        mend="run the same command again; if it fails alike, report it with this message",
    )


def is_interruption(error: BaseException | None) -> bool:
    """Whether the user broke off: DuckDB (1.5.5) answers Ctrl-C in a query with an error of its own."""
    return isinstance(error, KeyboardInterrupt) or (
        isinstance(error, RuntimeError) and str(error) == "Query interrupted"
    )


# To the last @ of the word: passwords that should have been escaped may hold @ and / themselves.
_URL_PASSWORD = re.compile(r"(?P<head>[a-zA-Z][\w+.-]*://[^\s:/@]*):\S+@")
# password=x, PGPASSWORD=x, "password": "x", SQL's PASSWORD 'x'; a quoted value may hold escaped quotes.
_KEY_VALUE_PASSWORD = re.compile(
    r"(?i)(?P<key>(?:password|passwd|pwd|passphrase|secret|token|api_?key|access_key|private_key)[\"']?(?:\s*[=:]\s*|\s+(?=')))"
    r"(?!(?:YES|NO)\)+(?:[\s,;.'\"]|$))"  # MySQL's "using password: YES" is none
    r"(?:'(?:[^'\\]|\\.|'')*'|\"(?:[^\"\\]|\\.)*\"|[^\s,;&'\"]+)"
)


def scrubbed(text: str) -> str:
    """The text without passwords: in URLs (`user:***@`) and in `password=...` pairs."""
    text = _URL_PASSWORD.sub(r"\g<head>:***@", text)
    return _KEY_VALUE_PASSWORD.sub(r"\g<key>***", text)
