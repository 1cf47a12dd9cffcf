"""dbt's YAML, rendered without dbt where that is exact: jinja2 with `env_var`, `var` and dbt's native filters.

The rules are those of `dbt_common.clients.jinja.quoted_native_concat` and `dbt.config.renderer` (dbt-core 1.11): one
expression keeps its type, several parts become a text, and only the filters `as_number`, `as_bool` and `as_native`
make another type of a text. What needs anything else of dbt's context is not rendered at all.
"""

from __future__ import annotations

import os
import re
from ast import literal_eval
from collections.abc import Callable, Iterable, Mapping
from datetime import date
from itertools import chain, islice
from typing import Any

_SECRET = "DBT_ENV_SECRET_"
_HIDDEN = "$$$DBT_SECRET_START$$${}$$$DBT_SECRET_END$$$"
_JINJA = re.compile(r"\{[{%#]")
_UNSET = object()


class NotRendered(Exception):
    """Only dbt itself can render this; the message names no value."""


class Renderer:
    """Renders values of YAML files.

    Args:
        variables: `--vars`.
        may_read_secrets: as in profiles.yml, where variables of the environment that begin with DBT_ENV_SECRET_ may be
            read.
        context: more names that templates know.
        find_var: a variable of the project that is not in `variables`; raises KeyError without one.
    """

    def __init__(
        self,
        variables: Mapping[str, Any],
        *,
        may_read_secrets: bool = False,
        context: Mapping[str, Any] | None = None,
        find_var: Callable[[str], Any] | None = None,
    ) -> None:
        self._variables, self._find_var = variables, find_var
        self._may_read_secrets = may_read_secrets
        self._context = {"env_var": self._env_var, "var": self._var, **(context or {})}

    def render(self, value: Any) -> Any:
        """A value of YAML, with everything in it.

        Raises:
            NotRendered: dbt must do it.
        """
        return self._render(value, ())

    def _render(self, value: Any, path: tuple[Any, ...]) -> Any:
        match value:
            case dict():
                return {key: self._render(one, (*path, key)) for key, one in value.items()}
            case list():
                return [self._render(one, (*path, place)) for place, one in enumerate(value)]
            case date():
                return value.isoformat()
            case str():
                return self._render_text(value, path)
        return value

    def _render_text(self, text: str, path: tuple[Any, ...]) -> Any:
        if not _JINJA.search(text) and not text.endswith("\n"):
            return text
        try:
            rendered = _render_native(text, self._context)
        except NotRendered:
            if "password" in path and not _JINJA.search(text):
                return text
            raise
        return self._reveal(rendered) if self._may_read_secrets else rendered

    def _env_var(self, name: str, default: Any = None) -> Any:
        if name.startswith(_SECRET):
            if not self._may_read_secrets:
                raise NotRendered("a secret outside of profiles.yml")
            if name in os.environ:
                return _HIDDEN.format(name)
        if name in os.environ:
            return os.environ[name]
        if default is None:
            raise NotRendered(f"the environment has no {name}")
        return default

    def _var(self, name: str, default: Any = _UNSET) -> Any:
        found = self._variables.get(name, _UNSET)
        if found is _UNSET and self._find_var is not None:
            try:
                found = self._find_var(name)
            except KeyError:
                found = default
        if found is _UNSET:
            found = default
        if found is _UNSET or (isinstance(found, str) and _JINJA.search(found)):
            raise NotRendered(f"the variable {name}")
        return found

    def _reveal(self, rendered: Any) -> Any:
        if not isinstance(rendered, str) or _SECRET not in rendered:
            return rendered
        names = re.findall(re.escape(_HIDDEN.format("@")).replace("@", rf"({_SECRET}[A-Za-z0-9_]*)"), rendered)
        if len(names) != 1:  # dbt itself reveals no more than one
            raise NotRendered("several secrets in one value")
        return rendered.replace(_HIDDEN.format(names[0]), os.environ[names[0]])


class _Text(str):
    """`as_text`."""


class _Native(str):
    """`as_native`, and the base of its stricter kinds."""


class _Bool(_Native):
    """`as_bool`."""


class _Number(_Native):
    """`as_number`."""


def _render_native(text: str, context: Mapping[str, Any]) -> Any:
    import jinja2
    import jinja2.nativetypes
    import jinja2.sandbox

    class Environment(jinja2.sandbox.SandboxedEnvironment):
        code_generator_class = jinja2.nativetypes.NativeCodeGenerator

    environment = Environment(undefined=jinja2.StrictUndefined, extensions=["jinja2.ext.do", "jinja2.ext.loopcontrols"])
    environment.filters.update(as_text=_Text, as_bool=_Bool, as_native=_Native, as_number=_Number)
    try:
        template = environment.from_string(text)
        return _join(template.root_render_func(template.new_context(dict(context))))
    except NotRendered:
        raise
    except Exception as error:  # of what a template can raise there is no end, and dbt will say it better
        raise NotRendered(type(error).__name__) from None


def _join(nodes: Iterable[Any]) -> Any:
    nodes = iter(nodes)
    head = list(islice(nodes, 2))
    if not head:
        return ""
    if len(head) > 1:
        return "".join(str(node) for node in chain(head, nodes))
    raw = head[0]
    if isinstance(raw, _Text):
        return str(raw)
    if not isinstance(raw, _Native):
        _refuse_undefined(raw)
        return raw
    try:
        result = literal_eval(raw)
    except (ValueError, SyntaxError, MemoryError):
        result = str(raw)
    is_number = isinstance(result, int | float) and not isinstance(result, bool)
    if (isinstance(raw, _Bool) and not isinstance(result, bool)) or (isinstance(raw, _Number) and not is_number):
        raise NotRendered("a filter that does not fit")
    return result


def _refuse_undefined(value: Any) -> None:
    """A lone undefined name is not printed, so nothing has raised yet."""
    import jinja2

    if isinstance(value, jinja2.Undefined):
        raise NotRendered("a name that only dbt knows")
