"""How the `config.meta.bridge` blocks of dbt's YAML are read: checked, with the nearest valid key named.

`nouns.bridge_keys` declares the keys. Here is how its types are read from YAML, and which keys contradict each other.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, fields, replace
from difflib import get_close_matches
from functools import cache
from typing import Annotated, Any, Generic, TypeVar, get_type_hints

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, create_model
from pydantic_core import ErrorDetails

from dbt_bridge.errors import UsageError
from dbt_bridge.nouns.bridge_keys import Columns, DeliveryKeys, SourceBlock, TableKeys
from dbt_bridge.nouns.quantities import parse_duration, parse_size

INSERTS = "_inserts"  # what the name of a slot's second publication adds
SLOT_LENGTH = 63 - len(INSERTS)  # NAMEDATALEN - 1

# What only means something for `replication: cdc`, and what means nothing there.
_CDC_KEYS = ("deletes", "history")
_CURSOR_KEYS = ("cursor", "lag")

Keys = TypeVar("Keys")


@dataclass(frozen=True)
class Block(Generic[Keys]):
    """A block as it was written.

    Attributes:
        keys: its values.
        written: the names of those that it has itself; the others have their defaults.
    """

    keys: Keys
    written: frozenset[str]


def as_list(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _as_seconds(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return float(parse_duration(value))
    except ValueError:
        raise ValueError('is a number, or a text like "10 minutes", "1 hour", "2 days"') from None


def _as_bytes(value: object) -> object:
    try:
        if isinstance(value, bool):  # a number to Python
            raise ValueError
        return parse_size(value) if isinstance(value, str) else value
    except ValueError:
        raise ValueError('is a number of bytes, or a text like "500MB", "10GB"') from None


def _as_every_table(value: object) -> object:
    if value != "*":
        raise ValueError(
            'can only be "*", which takes every table of the schema; list single tables in dbt\'s `tables:`'
        )
    return True


def _as_columns(value: object) -> object:
    return {"include": value} if isinstance(value, str | list | tuple) else value


def _refuse_twins(names: tuple[str, ...]) -> tuple[str, ...]:
    twice = next((name for place, name in enumerate(names) if name in names[:place]), None)
    if twice is not None:
        raise ValueError(f"names {twice!r} twice")
    return names


def _check_slot(name: str) -> str:
    if not re.fullmatch(r"[a-z0-9_]+", name):
        raise ValueError("a slot's name has only lower-case letters, digits and underscores")
    if len(name) > SLOT_LENGTH:
        raise ValueError(f"a slot's name has at most {SLOT_LENGTH} characters, as its publications add to it")
    return name


Name = Annotated[str, Field(min_length=1)]
Names = Annotated[tuple[Name, ...], BeforeValidator(as_list), AfterValidator(_refuse_twins)]

# The types of `nouns.bridge_keys`, by their names there, as pydantic reads them from YAML.
_AS_WRITTEN: dict[str, Any] = {
    "Name": Name,
    "Names": Names,
    "Seconds": Annotated[float, BeforeValidator(_as_seconds), Field(ge=0, allow_inf_nan=False)],
    "Bytes": Annotated[int, BeforeValidator(_as_bytes), Field(gt=0)],
    "Slot": Annotated[Name, AfterValidator(_check_slot)],
    "EveryTable": Annotated[bool, BeforeValidator(_as_every_table)],
    "Mapping": dict,
}


@cache
def _make_model(declared: type[Any]) -> type[BaseModel]:
    """The pydantic model of declared keys. Its defaults do not count: the declaration has them."""
    types = get_type_hints(declared, localns=_AS_WRITTEN, include_extras=True)
    read: dict[str, Any] = {}
    for key in fields(declared):
        is_required = key.default is MISSING and key.default_factory is MISSING
        # An underscore keeps a key like `schema` apart from the model's own attributes.
        read[f"{key.name}_"] = types[key.name], Field(... if is_required else None, alias=_yaml_name(key))
    return create_model(declared.__name__, __config__=ConfigDict(extra="forbid"), **read)


def _yaml_name(key: Any) -> str:
    return str(key.metadata.get("key", key.name))


def _make_block(declared: type[Keys], model: BaseModel) -> Block[Keys]:
    names = {f"{key.name}_": key.name for key in fields(declared)}  # type: ignore[arg-type]  # it is a dataclass
    given = {names[name]: getattr(model, name) for name in model.model_fields_set}
    return Block(declared(**given), frozenset(given))


_AS_WRITTEN["Columns"] = Annotated[
    _make_model(Columns), BeforeValidator(_as_columns), AfterValidator(lambda model: _make_block(Columns, model).keys)
]


def read_block(declared: type[Keys], raw: object, where: str) -> Block[Keys]:
    """Read a block.

    Args:
        declared: the keys that it can have.
        raw: the YAML's value of `bridge`.
        where: for the message: `source shop (models/sources.yml)`.

    Raises:
        UsageError: an unknown key (with the nearest valid one), a missing one or a wrong value.
    """
    raw = _require_mapping(raw, where, "{origin: shop_pg}")
    kind: Any = declared  # for mypy a type variable has no hash
    model = _make_model(kind)
    valid = [str(field.alias) for field in model.model_fields.values()]
    for key in raw:
        if key not in valid:
            nearest = get_close_matches(str(key), valid, n=1)
            hint = f"did you mean {nearest[0]!r}? " if nearest else ""
            raise UsageError(f"{where}: `bridge` has no key {key!r}", mend=f"{hint}valid are {', '.join(valid)}")
    try:
        return _make_block(declared, model.model_validate(dict(raw)))
    except ValidationError as error:
        raise _make_refusal(error.errors(include_url=False)[0], where) from None


def read_table_block(raw: object, where: str, source: Block[SourceBlock]) -> TableKeys:
    """Read a table's block, and lay it over its source's, key by key.

    What the source says for all its tables and does not suit this one (a cursor for a table that follows the log) is
    passed over. Columns that the source masks or excludes stay so, whatever the table masks or excludes itself.

    Raises:
        UsageError: as `read_block`, and for keys of the table itself that contradict each other.
    """
    own = read_block(TableKeys, _require_mapping(raw, where, "{cursor: updated_at}"), where)
    above = _keys_for_table(own, source)
    columns = _merge_columns(above.keys.columns, own.keys.columns)
    mask = {name: how for name, how in above.keys.mask.items() if columns.lets_land(name)}
    over = {key: getattr(own.keys, key) for key in own.written}
    table = replace(above.keys, **{**over, "mask": {**mask, **own.keys.mask}, "columns": columns})
    _refuse_contradictions(Block(table, above.written | own.written), where)
    return table


def refuse_unused(source: Block[SourceBlock], tables: Iterable[TableKeys], where: str) -> None:
    """Refuse keys of change data capture at a source where none of its tables has it.

    Raises:
        UsageError: no table of the source has `replication: cdc`.
    """
    if source.keys.replication == "cdc" or any(table.replication == "cdc" for table in tables):
        return
    for key in (*_CDC_KEYS, "slot", "max_wal"):
        if key in source.written:
            raise _make_cdc_refusal(key, where)


def read_delivery_block(raw: object, where: str) -> DeliveryKeys:
    """Read an exposure's block.

    Raises:
        UsageError: as `read_block`, and for a merge without a key.
    """
    keys = read_block(DeliveryKeys, raw, where).keys
    if keys.write_disposition == "merge" and not keys.primary_key:
        raise UsageError(f"{where}: write_disposition: merge needs a key", mend="add `primary_key: <column>` or a list")
    if keys.deletes == "own" and keys.write_disposition != "merge":
        raise UsageError(
            f"{where}: `deletes: own` is for write_disposition: merge; replace leaves none of before, and append"
            " takes none away",
            mend="take `deletes` out, or write `write_disposition: merge` with a `primary_key`",
        )
    for use, names in (("primary_key", keys.primary_key), ("types", keys.types)):
        for name in names:
            if keys.columns and name not in keys.columns:
                raise UsageError(
                    f"{where}: `columns` leaves out {name!r}, which `{use}` names",
                    mend=f"add {name!r} to `columns`, or take it out of `{use}`",
                )
    return keys


def select_keys(declared: type[Any], keys: Any) -> dict[str, Any]:
    """The values of the keys that `declared` names, to make a value of a class that inherits them."""
    return {key.name: getattr(keys, key.name) for key in fields(declared)}


def _keys_for_table(own: Block[TableKeys], source: Block[SourceBlock]) -> Block[TableKeys]:
    """What the source says for all its tables, without what does not suit this one."""
    replication = own.keys.replication if "replication" in own.written else source.keys.replication
    unsuitable = {*(_CURSOR_KEYS if replication == "cdc" else _CDC_KEYS)}
    if replication == "cdc" and source.keys.write_disposition == "merge":
        unsuitable.add("write_disposition")
    names = frozenset(key.name for key in fields(TableKeys)) & source.written - unsuitable
    return Block(TableKeys(**{name: getattr(source.keys, name) for name in names}), names)


def _merge_columns(above: Columns, own: Columns) -> Columns:
    exclude = tuple(dict.fromkeys((*above.exclude, *own.exclude)))
    return Columns(include=own.include or above.include, exclude=exclude)


def _refuse_contradictions(block: Block[TableKeys], where: str) -> None:
    table = block.keys
    if table.replication == "incremental" and table.cursor is None:
        raise UsageError(
            f"{where}: replication: incremental needs a cursor",
            mend="add `cursor: <column>`, the column that grows with each insert or update, like updated_at or id",
        )
    if table.replication == "cdc":
        _refuse_in_cdc(block, where)
    else:
        for key in _CDC_KEYS:
            if key in block.written:
                raise _make_cdc_refusal(key, where)
    for use, names in (("primary_key", table.primary_key), ("cursor", (table.cursor,)), ("types", table.types)):
        for name in names:
            if name is not None and not table.columns.lets_land(name):
                raise UsageError(
                    f"{where}: `columns` leaves out {name!r}, which `{use}` names",
                    mend=f"let {name!r} land, or take it out of `{use}`",
                )
    _refuse_masks(table, where)


def _refuse_in_cdc(block: Block[TableKeys], where: str) -> None:
    for key in _CURSOR_KEYS:
        if key in block.written:
            raise UsageError(
                f"{where}: `{key}` has no use with replication: cdc, which follows the origin's log",
                mend=f"take `{key}` out, or use `replication: incremental`",
            )
    if block.keys.write_disposition == "merge":
        raise UsageError(
            f"{where}: write_disposition: merge is what replication: cdc does by itself",
            mend="take `write_disposition` out, or say `append` for a log of every change",
        )
    if block.keys.write_disposition == "append":
        for key in _CDC_KEYS:
            if getattr(block.keys, key) in ("soft", True):
                raise UsageError(
                    f"{where}: `{key}` has no use with write_disposition: append, a log of every change",
                    mend=f"take `{key}` out, or take `write_disposition` out to land the current state",
                )


def _refuse_masks(table: TableKeys, where: str) -> None:
    for name in table.mask:
        if not table.columns.lets_land(name):
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


def _make_cdc_refusal(key: str, where: str) -> UsageError:
    return UsageError(
        f"{where}: `{key}` needs replication: cdc",
        mend=f"add `replication: cdc`, or take `{key}` out",
    )


def _require_mapping(raw: object, where: str, example: str) -> Mapping[str, Any]:
    if not isinstance(raw, Mapping):
        raise UsageError(f"{where}: `bridge` is not a mapping", mend=f"write it as bridge: {example}")
    return raw


def _make_refusal(error: ErrorDetails, where: str) -> UsageError:
    key = ".".join(str(part) for part in error["loc"] if part != "function-before")
    if error["type"] == "missing":
        return UsageError(f"{where}: `bridge` lacks {key}", mend=f"add `{key}: ...` to its config.meta.bridge")
    if error["type"] == "extra_forbidden":  # in `columns`, the only block inside of one
        valid = [key.name for key in fields(Columns)]
        nearest = get_close_matches(str(error["loc"][-1]), valid, n=1)
        hint = f"did you mean {nearest[0]!r}? " if nearest else ""
        return UsageError(f"{where}: there is no key `{key}`", mend=f"{hint}valid are {', '.join(valid)}")
    reason = error["msg"].removeprefix("Value error, ")
    return UsageError(
        f"{where}: `{key}: {error['input']!r}`: {reason}", mend=f"correct `{key}` in its config.meta.bridge"
    )
