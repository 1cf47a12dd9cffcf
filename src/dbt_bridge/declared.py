"""The `config.meta.bridge` blocks of dbt's YAML, as a user writes them: checked, with the nearest valid key named."""

from __future__ import annotations

import re
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from dbt_bridge.errors import UsageError

_SECONDS = {"second": 1, "minute": 60, "hour": 3600, "day": 86400, "week": 604800}
_SPAN = re.compile(r"(\d+(?:\.\d+)?)\s*(second|minute|hour|day|week)s?")


def _as_list(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _as_number(value: object) -> object:
    """Seconds of "10 minutes" or "1 hour 30 minutes"; numbers stay."""
    if not isinstance(value, str):
        return value
    text = value.strip().lower()
    if re.fullmatch(r"\d+(\.\d+)?", text):
        return float(text)
    spans = _SPAN.findall(text)
    if not spans or _SPAN.sub("", text).strip():
        raise ValueError('is a number, or a text like "10 minutes", "1 hour", "2 days"')
    return sum(float(number) * _SECONDS[unit] for number, unit in spans)


def _every(value: object) -> object:
    if value != "*":
        raise ValueError(
            'can only be "*", which takes every table of the schema; list single tables in dbt\'s `tables:`'
        )
    return value


Names = Annotated[tuple[str, ...], BeforeValidator(_as_list)]
Seconds = Annotated[float, BeforeValidator(_as_number), Field(ge=0, allow_inf_nan=False)]
Name = Annotated[str, Field(min_length=1)]


class _Block(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TableBridge(_Block):
    """What can be said of one source table, or of all tables of a source at once."""

    replication: Literal["initial_copy", "incremental"] = "initial_copy"
    cursor: Name | None = None
    write_disposition: Literal["append", "merge"] | None = None
    primary_key: Names = ()
    lag: Seconds = 0
    types: dict[str, str] = Field(default_factory=dict)


class SourceBridge(TableBridge):
    """And of a source."""

    origin: Name
    schema_: Name | None = Field(default=None, alias="schema")
    destination: Name | None = None
    tables: Annotated[Literal["*"] | None, BeforeValidator(_every)] = None
    include: Names = ()
    exclude: Names = ()


class ExposureBridge(_Block):
    """What can be said of a delivery."""

    destination: Name
    schema_: Name | None = Field(default=None, alias="schema")
    table: Name | None = None
    write_disposition: Literal["replace", "append", "merge"]
    primary_key: Names = ()
    columns: Names = ()
    model: Name | None = None


Block = TypeVar("Block", bound=_Block)


def checked(block: type[Block], raw: object, where: str) -> Block:
    """The block that `raw` says.

    Args:
        raw: the YAML's value of `bridge`.
        where: for the message: `source shop (models/sources.yml)`.

    Raises:
        UsageError: an unknown key (with the nearest valid one), a missing one or a wrong value.
    """
    if not isinstance(raw, Mapping):
        raise UsageError(f"{where}: `bridge` is not a mapping", mend="write it as bridge: {origin: shop_pg}")
    valid = [field.alias or name for name, field in block.model_fields.items()]
    for key in raw:
        if key not in valid:
            nearest = get_close_matches(str(key), valid, n=1)
            hint = f"did you mean {nearest[0]!r}? " if nearest else ""
            raise UsageError(f"{where}: `bridge` has no key {key!r}", mend=f"{hint}valid are {', '.join(valid)}")
    if raw.get("replication") == "cdc":
        raise UsageError(
            f"{where}: replication: cdc arrives with change data capture, which this version does not have",
            mend="use `replication: incremental` with a cursor, or `replication: initial_copy`",
        )
    try:
        return block.model_validate(dict(raw))
    except ValidationError as error:
        raise _refusal(error.errors(include_url=False)[0], where) from None


def checked_table(raw: object, where: str, source: Mapping[str, Any]) -> TableBridge:
    """A table's block over its source's, key by key; incremental needs a cursor."""
    if not isinstance(raw, Mapping):
        raise UsageError(f"{where}: `bridge` is not a mapping", mend="write it as bridge: {cursor: updated_at}")
    inherited = {key: value for key, value in source.items() if key in TableBridge.model_fields}
    table = checked(TableBridge, {**inherited, **raw}, where)
    if table.replication == "incremental" and table.cursor is None:
        raise UsageError(
            f"{where}: replication: incremental needs a cursor",
            mend="add `cursor: <column>`, the column that grows with each insert or update, like updated_at or id",
        )
    return table


def checked_exposure(raw: object, where: str) -> ExposureBridge:
    block = checked(ExposureBridge, raw, where)
    if block.write_disposition == "merge" and not block.primary_key:
        raise UsageError(f"{where}: write_disposition: merge needs a key", mend="add `primary_key: <column>` or a list")
    return block


def _refusal(error: ErrorDetails, where: str) -> UsageError:
    key = ".".join(str(part) for part in error["loc"] if part != "function-before")
    if error["type"] == "missing":
        return UsageError(f"{where}: `bridge` lacks {key}", mend=f"add `{key}: ...` to its config.meta.bridge")
    reason = error["msg"].removeprefix("Value error, ")
    return UsageError(
        f"{where}: `{key}: {error['input']!r}`: {reason}", mend=f"correct `{key}` in its config.meta.bridge"
    )
