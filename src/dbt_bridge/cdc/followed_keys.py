"""A key by which changes are to be found is looked at before its table is followed: does it tell rows apart here, too?

The origin's equality is what counts. A column that travels in its own type is compared as there (`replicate/key_codes`,
and the destination's own comparison, which `ComparesKeys` may refuse); one that `types:` turns into another type must
keep two keys of the origin two keys.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pyarrow as pa
from pyarrow import types as is_

from dbt_bridge.contracts.capabilities import ComparesKeys
from dbt_bridge.contracts.change_feed import TableVersion
from dbt_bridge.contracts.destination import Destination
from dbt_bridge.errors import KeyRefused
from dbt_bridge.nouns.bridge_keys import quote_in_yaml
from dbt_bridge.nouns.refusals import Refusals
from dbt_bridge.nouns.table import Column, TableName
from dbt_bridge.replicate.key_codes import find_incomparable


def check_keys(
    destination: Destination,
    landing: TableName,
    version: TableVersion,
    columns: Iterable[Column],
    masked: Iterable[str],
) -> None:
    """Refuse a key whose rows could not be told apart at the destination.

    Args:
        columns: that land, as they travel.
        masked: columns that land as hashes, which are as different as their values.

    Raises:
        KeyRefused: names table, column and type, and the line of YAML that mends it.
    """
    own = {column.name: column for column in version.columns}
    refusals = Refusals()
    for column in [column for column in columns if column.name in version.key]:
        with refusals.gather():
            if column.name not in masked:
                _check_stays_apart(version.name, own[column.name], column)
            _check_comparable(version.name, column)
            if isinstance(destination, ComparesKeys):
                destination.check_key(landing, column)
    refusals.raise_all()


def _check_stays_apart(table: TableName, own: Column, column: Column) -> None:
    if not _stay_apart(own, column.type):
        raise KeyRefused(
            f"{table}: its key column {column.name!r} is {own.origin_type or 'of another type'}"
            f" and would land as {column.type}, in which two of its keys may be one",
            mend=f"take {column.name!r} out of `types:`, or types: {{{quote_in_yaml(column.name)}: text}}",
        )


def _check_comparable(table: TableName, column: Column) -> None:
    if (part := find_incomparable(column.type)) is not None:
        raise KeyRefused(
            f"{table}: its key column {column.name!r} is {column.type}, and {part} has no equality",
            mend=f"types: {{{quote_in_yaml(column.name)}: text}}",
        )


_Kind = Callable[[pa.DataType], bool]


def _is_bytes(type_: pa.DataType) -> bool:
    return bool(is_.is_binary(type_) or is_.is_large_binary(type_))


def _is_moment(type_: pa.DataType) -> bool:
    return bool(is_.is_date(type_) or is_.is_timestamp(type_))


# From what to what a cast that keeps each value also keeps them apart. Numbers of a numeric without digits travel as
# text, and two of its texts that are one decimal are one key at the origin too.
_APART: tuple[tuple[_Kind, tuple[_Kind, ...]], ...] = (
    (is_.is_integer, (is_.is_integer, is_.is_decimal, is_.is_float64)),
    (is_.is_decimal, (is_.is_decimal, is_.is_integer)),
    (is_.is_floating, (is_.is_floating,)),
    (_is_moment, (_is_moment,)),
    (is_.is_string, (_is_bytes,)),
)


def _stay_apart(own: Column, wanted: pa.DataType) -> bool:
    """Whether two values of a column that are two to its origin are two as another type."""
    if own.type == wanted or is_.is_string(wanted) or is_.is_large_string(wanted):
        return True
    plain = [type_.storage_type if isinstance(type_, pa.BaseExtensionType) else type_ for type_ in (own.type, wanted)]
    if plain[0] == plain[1] and not isinstance(wanted, pa.BaseExtensionType):
        return True
    if is_.is_string(own.type) and own.origin_type.startswith("numeric") and not own.origin_type.endswith("[]"):
        return bool(is_.is_decimal(wanted) or is_.is_integer(wanted))
    if isinstance(wanted, pa.JsonType):
        return bool(is_.is_string(plain[0]))
    if is_.is_nested(own.type):  # of the destination's own making, from lists to lists
        return bool(is_.is_nested(wanted))
    return any(kind(plain[0]) and any(other(plain[1]) for other in others) for kind, others in _APART)
