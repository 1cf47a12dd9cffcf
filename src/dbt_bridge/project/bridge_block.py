"""The `config.meta.bridge` blocks of dbt's YAML, as a user writes them: checked, with the nearest valid key named."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from dbt_bridge.errors import UsageError

_SECONDS = {"second": 1, "minute": 60, "hour": 3600, "day": 86400, "week": 604800}
_SPAN = re.compile(r"(\d+(?:\.\d+)?)\s*(second|minute|hour|day|week)s?")
_UNITS = {"": 1, "b": 1, "kb": 1 << 10, "mb": 1 << 20, "gb": 1 << 30, "tb": 1 << 40}  # as postgresql.conf counts
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?b)?")

SLOT_LENGTH = 63 - len("_inserts")  # NAMEDATALEN - 1, less what the second publication's name adds

# What only means something for `replication: cdc`, and what means nothing there.
_OF_CDC = ("deletes", "history")
_OF_CURSORS = ("cursor", "lag")


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


def _as_bytes(value: object) -> object:
    """Bytes of "10GB"; numbers stay."""
    if isinstance(value, bool):  # which is a number to Python
        raise ValueError('is a number of bytes, or a text like "500MB", "10GB"')
    if not isinstance(value, str):
        return value
    found = _SIZE.fullmatch(value.strip().lower())
    if found is None:
        raise ValueError('is a number of bytes, or a text like "500MB", "10GB"')
    return int(float(found[1]) * _UNITS[found[2] or ""])


def _as_columns(value: object) -> object:
    return {"include": value} if isinstance(value, str | list | tuple) else value


def _distinct(names: tuple[str, ...]) -> tuple[str, ...]:
    twice = next((name for place, name in enumerate(names) if name in names[:place]), None)
    if twice is not None:
        raise ValueError(f"names {twice!r} twice")
    return names


def _a_slot(name: str) -> str:
    if not re.fullmatch(r"[a-z0-9_]+", name):
        raise ValueError("a slot's name has only lower-case letters, digits and underscores")
    if len(name) > SLOT_LENGTH:
        raise ValueError(f"a slot's name has at most {SLOT_LENGTH} characters, as its publications add to it")
    return name


Seconds = Annotated[float, BeforeValidator(_as_number), Field(ge=0, allow_inf_nan=False)]
Bytes = Annotated[int, BeforeValidator(_as_bytes), Field(gt=0)]
Name = Annotated[str, Field(min_length=1)]
Names = Annotated[tuple[Name, ...], BeforeValidator(_as_list), AfterValidator(_distinct)]
Slot = Annotated[Name, AfterValidator(_a_slot)]


class _Block(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Columns(_Block):
    """Which columns land, by globs of their names."""

    include: Names = ()
    exclude: Names = ()

    def have(self, name: str) -> bool:
        included = not self.include or any(fnmatchcase(name, glob) for glob in self.include)
        return included and not any(fnmatchcase(name, glob) for glob in self.exclude)


class TableBridge(_Block):
    """What can be said of one source table, or of all tables of a source at once."""

    replication: Literal["initial_copy", "incremental", "cdc"] = "initial_copy"
    cursor: Name | None = None
    write_disposition: Literal["append", "merge"] | None = None
    primary_key: Names = ()
    lag: Seconds = 0
    types: dict[str, str] = Field(default_factory=dict)
    columns: Annotated[Columns, BeforeValidator(_as_columns)] = Columns()
    mask: dict[str, Literal["sha256"]] = Field(default_factory=dict)
    deletes: Literal["hard", "soft"] = "hard"
    history: bool = False


class SourceBridge(TableBridge):
    """And of a source."""

    origin: Name
    schema_: Name | None = Field(default=None, alias="schema")
    destination: Name | None = None
    tables: Annotated[Literal["*"] | None, BeforeValidator(_every)] = None
    include: Names = ()
    exclude: Names = ()
    slot: Slot | None = None
    max_wal: Bytes | None = None


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
    try:
        return block.model_validate(dict(raw))
    except ValidationError as error:
        raise _refusal(error.errors(include_url=False)[0], where) from None


def checked_table(raw: object, where: str, source: Mapping[str, Any]) -> TableBridge:
    """A table's block over its source's, key by key.

    What the source says for all its tables and does not suit this one (a cursor for a table that follows the log) is
    passed over. Columns that the source masks or excludes stay so, whatever the table masks or excludes itself.

    Raises:
        UsageError: as `checked`, and for keys of the table itself that contradict each other.
    """
    if not isinstance(raw, Mapping):
        raise UsageError(f"{where}: `bridge` is not a mapping", mend="write it as bridge: {cursor: updated_at}")
    inherited = {key: value for key, value in source.items() if key in TableBridge.model_fields}
    own = checked(TableBridge, raw, where)
    replication = own.replication if "replication" in raw else inherited.get("replication", own.replication)
    for key in _OF_CURSORS if replication == "cdc" else _OF_CDC:
        inherited.pop(key, None)
    if replication == "cdc" and inherited.get("write_disposition") == "merge":
        del inherited["write_disposition"]
    above = checked(TableBridge, inherited, where)
    columns = _together(above.columns, own.columns)
    mask = {name: how for name, how in above.mask.items() if columns.have(name)}
    together = {**inherited, **raw, "mask": {**mask, **own.mask}, "columns": columns}
    table = checked(TableBridge, together, where)
    _refuse_contradictions(table, {**inherited, **raw}, where)
    return table


def refuse_unused(source: SourceBridge, raw: Mapping[str, Any], tables: Iterable[TableBridge], where: str) -> None:
    """What a source says of change data capture needs a table that has it.

    Raises:
        UsageError: no table of the source has `replication: cdc`.
    """
    if source.replication == "cdc" or any(table.replication == "cdc" for table in tables):
        return
    for key in (*_OF_CDC, "slot", "max_wal"):
        if key in raw:
            raise _needs_cdc(key, where)


def _together(above: Columns, own: Columns) -> Columns:
    exclude = tuple(dict.fromkeys((*above.exclude, *own.exclude)))
    return Columns(include=own.include or above.include, exclude=exclude)


def _refuse_contradictions(table: TableBridge, said: Mapping[str, Any], where: str) -> None:
    if table.replication == "incremental" and table.cursor is None:
        raise UsageError(
            f"{where}: replication: incremental needs a cursor",
            mend="add `cursor: <column>`, the column that grows with each insert or update, like updated_at or id",
        )
    if table.replication == "cdc":
        _refuse_in_cdc(table, said, where)
    else:
        for key in _OF_CDC:
            if key in said:
                raise _needs_cdc(key, where)
    for use, names in (("primary_key", table.primary_key), ("cursor", (table.cursor,)), ("types", table.types)):
        for name in names:
            if name is not None and not table.columns.have(name):
                raise UsageError(
                    f"{where}: `columns` leaves out {name!r}, which `{use}` names",
                    mend=f"let {name!r} land, or take it out of `{use}`",
                )
    _refuse_masks(table, where)


def _refuse_in_cdc(table: TableBridge, said: Mapping[str, Any], where: str) -> None:
    for key in _OF_CURSORS:
        if key in said:
            raise UsageError(
                f"{where}: `{key}` has no use with replication: cdc, which follows the origin's log",
                mend=f"take `{key}` out, or use `replication: incremental`",
            )
    if table.write_disposition == "merge":
        raise UsageError(
            f"{where}: write_disposition: merge is what replication: cdc does by itself",
            mend="take `write_disposition` out, or say `append` for a log of every change",
        )
    if table.write_disposition == "append":
        for key in _OF_CDC:
            if said.get(key) in ("soft", True):
                raise UsageError(
                    f"{where}: `{key}` has no use with write_disposition: append, a log of every change",
                    mend=f"take `{key}` out, or take `write_disposition` out to land the current state",
                )


def _refuse_masks(table: TableBridge, where: str) -> None:
    for name in table.mask:
        if not table.columns.have(name):
            raise UsageError(
                f"{where}: `mask` names {name!r}, which `columns` leaves out: it lands nowhere",
                mend=f"take {name!r} out of `mask`, or let the column land",
            )
        if name in table.types:
            raise UsageError(
                f"{where}: {name!r} is in `mask` and in `types`, but a masked column is always text",
                mend=f"take {name!r} out of `types`",
            )
        if name == table.cursor:
            raise UsageError(
                f"{where}: the cursor {name!r} cannot be masked: its values are kept as the checkpoint",
                mend="name another cursor, or take it out of `mask`",
            )


def _needs_cdc(key: str, where: str) -> UsageError:
    return UsageError(
        f"{where}: `{key}` needs replication: cdc",
        mend=f"add `replication: cdc`, or take `{key}` out",
    )


def checked_exposure(raw: object, where: str) -> ExposureBridge:
    block = checked(ExposureBridge, raw, where)
    if block.write_disposition == "merge" and not block.primary_key:
        raise UsageError(f"{where}: write_disposition: merge needs a key", mend="add `primary_key: <column>` or a list")
    return block


def _refusal(error: ErrorDetails, where: str) -> UsageError:
    key = ".".join(str(part) for part in error["loc"] if part != "function-before")
    if error["type"] == "missing":
        return UsageError(f"{where}: `bridge` lacks {key}", mend=f"add `{key}: ...` to its config.meta.bridge")
    if error["type"] == "extra_forbidden":  # in `columns`, the only block inside of one
        valid = list(Columns.model_fields)
        nearest = get_close_matches(str(error["loc"][-1]), valid, n=1)
        hint = f"did you mean {nearest[0]!r}? " if nearest else ""
        return UsageError(f"{where}: there is no key `{key}`", mend=f"{hint}valid are {', '.join(valid)}")
    reason = error["msg"].removeprefix("Value error, ")
    return UsageError(
        f"{where}: `{key}: {error['input']!r}`: {reason}", mend=f"correct `{key}` in its config.meta.bridge"
    )
