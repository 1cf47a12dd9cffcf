"""Files from templates: Jinja between `<%` and `%>`, so that dbt's own Jinja, shell and workflows stay as they are.

    <%= name %>     a value          <%= url | quote %>     as a string of YAML, TOML, JSON or Python
    <% if x %>      a statement      <%= block | yaml %>    as YAML on one line

A name that has no value is an error (jinja2.UndefinedError), never an empty text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined

_TEMPLATES = Path(__file__).parent / "templates"


def list_templates(folder: str) -> list[PurePosixPath]:
    """The templates of a folder, relative to it, sorted."""
    root = _TEMPLATES / folder
    files = (file.relative_to(root) for file in root.rglob("*") if file.is_file() and "__pycache__" not in file.parts)
    return [PurePosixPath(file.as_posix()) for file in sorted(files)]


def render_template(path: str, values: Mapping[str, Any]) -> str:
    """The text of a template.

    Args:
        path: below `templates`, with slashes.
    """
    return _environment().get_template(path).render(values)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        undefined=StrictUndefined,
        variable_start_string="<%=",
        variable_end_string="%>",
        block_start_string="<%",
        block_end_string="%>",
        comment_start_string="<%#",
        comment_end_string="%>",
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(quote=_quote, yaml=_format_yaml)
    return environment


def _quote(text: str) -> str:
    """A JSON string, which is also one of YAML, of TOML and of Python."""
    return json.dumps(text, ensure_ascii=False)


def _format_yaml(value: Any) -> str:
    text: str = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, sort_keys=False, width=float("inf"))
    return text.removesuffix("...\n").rstrip("\n")  # the end of a document, which a plain scalar gets
