"""Errors in a Python model reach the user as one message.

dbt-duckdb prints the whole traceback of what a model raises (`traceback.format_exception`), above and around the
sentence that says what to do. An error that this package raises on purpose says where and what next by itself: dbt is
shown no traceback of it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

from dbt_bridge.errors import BridgeError, DestinationError, UsageError, as_bridge_error, is_interruption


@contextmanager
def tell_once(doing: str) -> Iterator[None]:
    """What is raised inside becomes an error of this package; in a model that dbt runs, without a traceback.

    Args:
        doing: `transfer` or `api_to_df`, to begin the message of an error that nobody foresaw.
    """
    try:
        yield
    except Exception as error:
        if is_interruption(error):
            raise
        told = translate(error, doing)
        if _is_inside_dbt():
            told.__class__ = _without_traceback(type(told))
        told.__cause__ = told.__context__ = None  # drivers' messages may hold connection strings
        raise told from None


def translate(error: Exception, doing: str) -> BridgeError:
    """An error of the user's own code, or of a client that it uses, as this package tells errors."""
    if isinstance(error, BridgeError):
        return error
    if type(error).__name__ == "JSONDecodeError":  # of json, of simplejson, or of requests, whichever is installed
        return _tell_no_json(str(getattr(error, "doc", "")), doing)
    told = as_bridge_error(error, doing)
    return DestinationError(told.what, mend="correct what that line reads or calls, then run the model again")


def _tell_no_json(body: str, doing: str) -> UsageError:
    text = body.strip()
    if not text:
        return UsageError(
            f"{doing}: the API gave an answer without content (such as status 204), and rows were asked for",
            mend="ask an address that answers with JSON, or catch it in the model and pass [] with schema=...",
        )
    kind = "HTML" if text.startswith("<") else "text that is no JSON"
    return UsageError(
        f"{doing}: the API answered with {kind}: {' '.join(text.split())[:80]!r}",
        mend="check the address and the credentials: a page to log in is HTML, too",
    )


def _is_inside_dbt() -> bool:
    """Whether a node of dbt runs in this thread: pytest, for one, relies on tracebacks."""
    variables = sys.modules.get("dbt_common.events.contextvars")
    return variables is not None and bool(variables.get_node_info())


_shown: dict[type[BridgeError], type[BridgeError]] = {}


def _without_traceback(kind: type[BridgeError]) -> type[BridgeError]:
    """The same class of errors, whose traceback is not there for those who ask for it in Python."""
    if kind in _shown.values():
        return kind
    if kind not in _shown:

        def nothing(_: BridgeError) -> TracebackType | None:
            return None

        def ignore(_: BridgeError, __: Any) -> None:
            return None

        members = {"__traceback__": property(nothing, ignore), "__module__": "builtins"}
        _shown[kind] = type(kind.__name__, (kind,), members)
    return _shown[kind]
