"""The `config.meta.bridge` block of a model: what it replaces, checked, with the nearest valid key named."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from difflib import get_close_matches
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from dbt_bridge.errors import UsageError
from dbt_bridge.nouns.quantities import parse_duration
from dbt_bridge.nouns.reconciliation import DeclaredTolerance
from dbt_bridge.project.bridge_block import Name, Names, as_list, read_block

_SAID = 'is a number, a text like "0.1%", or for moments one like "2 seconds"'


def _as_tolerance(value: object) -> object:
    if isinstance(value, DeclaredTolerance):
        return value
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(_SAID)
    written = str(value).strip()
    is_time, amount = False, _number(written.removesuffix("%"))
    if amount is None:
        try:
            is_time, amount = True, parse_duration(written)
        except ValueError:
            raise ValueError(_SAID) from None
    if not amount.is_finite() or amount < 0:
        raise ValueError("is not negative, and finite")
    relative = written.endswith("%")
    return DeclaredTolerance(amount / 100 if relative else amount, relative, written, time=is_time)


def _number(text: str) -> Decimal | None:
    try:
        return Decimal(text.strip())
    except InvalidOperation:
        return None


def _as_sides(value: object) -> object:
    return {"legacy": value, "new": value} if isinstance(value, str) else value


def _as_column(value: object) -> object:
    return {"legacy": value} if isinstance(value, str) else value


def _as_key(value: object) -> object:
    """new name -> legacy column, of a name, a list of them, or the mapping itself."""
    names = [value] if isinstance(value, str) else value
    if isinstance(names, list | tuple):
        return {str(name): str(name) for name in names}
    return value


def _refuse_blank(value: str) -> str:
    if not value.strip():
        raise ValueError("is blank")
    return value


WrittenTolerance = Annotated[DeclaredTolerance, BeforeValidator(_as_tolerance)]
Sql = Annotated[str, AfterValidator(_refuse_blank)]
LevelName = Literal["counts", "aggregates", "rows"]


class _Block(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)  # `DeclaredTolerance`


class Filters(_Block):
    """Which rows are compared, in each side's SQL."""

    legacy: Sql | None = None
    new: Sql | None = None


class ColumnPair(_Block):
    """How one column is had on both sides, and how far its values may be apart."""

    legacy: Sql | None = None
    new: Sql | None = None
    tolerance: WrittenTolerance | None = None


class MetricBlock(_Block):
    """Numbers that both sides compute."""

    name: Name
    legacy: Sql
    new: Sql
    tolerance: WrittenTolerance | None = None
    by: Names = ()


class ReconcileBlock(_Block):
    """One reconciliation of a model."""

    origin: Name | None = None
    relation: Name | None = None
    query: Sql | None = None
    filter: Annotated[Filters, BeforeValidator(_as_sides)] = Filters()
    key: Annotated[dict[Name, Name], BeforeValidator(_as_key)] = Field(default_factory=dict)
    columns: dict[Name, Annotated[ColumnPair, BeforeValidator(_as_column)]] = Field(default_factory=dict)
    only: Names = ()
    exclude: Names = ()
    tolerances: dict[Name, WrittenTolerance] = Field(default_factory=dict)
    levels: Annotated[tuple[LevelName, ...], BeforeValidator(as_list)] = ("rows",)
    metrics: tuple[MetricBlock, ...] = ()
    required: bool = False


@dataclass(frozen=True)
class ModelKeys:
    """What can be said of a model."""

    reconcile: Any = None


_INSIDE: Mapping[str, type[_Block]] = {"filter": Filters, "columns": ColumnPair, "metrics": MetricBlock}


def read_reconcile_blocks(raw: object, where: str) -> tuple[ReconcileBlock, ...]:
    """The reconciliations of a model's `bridge` block: one, or a list of them.

    Args:
        raw: the YAML's value of `bridge`.
        where: for messages: `model fct_orders (models/marts.yml)`.

    Raises:
        UsageError: an unknown key (with the nearest valid one), a missing one or a wrong value.
    """
    written = read_block(ModelKeys, raw, where).keys.reconcile
    entries = written if isinstance(written, list | tuple) else [written]
    return tuple(_read_block(entry, where) for entry in entries)


def _read_block(raw: object, where: str) -> ReconcileBlock:
    if not isinstance(raw, Mapping):
        raise UsageError(
            f"{where}: `reconcile` is not a mapping",
            mend="write it as reconcile: {origin: legacy_mysql, relation: shop.orders, key: order_id}",
        )
    try:
        block = ReconcileBlock.model_validate(dict(raw))
    except ValidationError as error:
        raise _make_refusal(error.errors(include_url=False)[0], where) from None
    _refuse_contradictions(block, where)
    return block


def _refuse_contradictions(block: ReconcileBlock, where: str) -> None:
    compares_rows = block.relation is not None or block.query is not None
    if block.relation is not None and block.query is not None:
        raise UsageError(f"{where}: `reconcile` has a relation and a query", mend="take one of them out")
    if not compares_rows and not block.metrics:
        raise UsageError(
            f"{where}: `reconcile` says nothing to compare",
            mend="add `relation: schema.table`, `query: select ...`, or `metrics:`",
        )
    if not block.levels and compares_rows:
        raise UsageError(f"{where}: `levels` is empty", mend="write levels: [rows], or take it out")
    if twice := _find_twin([metric.name for metric in block.metrics]):
        raise UsageError(f"{where}: `metrics` names {twice!r} twice", mend="give one of them another name")
    for name, pair in block.columns.items():
        if pair.tolerance is not None and name in block.tolerances:
            raise UsageError(
                f"{where}: {name!r} has a tolerance in `columns` and in `tolerances`", mend="take one of them out"
            )
    for name in block.exclude:
        if name in block.key or name in block.columns:
            raise UsageError(
                f"{where}: `exclude` leaves out {name!r}, which `{'key' if name in block.key else 'columns'}` names",
                mend=f"take {name!r} out of one of them",
            )


def _find_twin(names: list[str]) -> str | None:
    return next((name for place, name in enumerate(names) if name in names[:place]), None)


def _make_refusal(error: ErrorDetails, where: str) -> UsageError:
    parts = [str(part) for part in error["loc"] if not str(part).startswith("function-")]
    key = ".".join(["reconcile", *parts])
    if error["type"] == "extra_forbidden":
        block = _INSIDE.get(parts[0], ReconcileBlock) if len(parts) > 1 else ReconcileBlock
        valid = list(block.model_fields)
        nearest = get_close_matches(parts[-1], valid, n=1)
        hint = f"did you mean {nearest[0]!r}? " if nearest else ""
        return UsageError(f"{where}: there is no key `{key}`", mend=f"{hint}valid are {', '.join(valid)}")
    if error["type"] == "missing":
        return UsageError(f"{where}: it lacks `{key}`", mend=f"add `{parts[-1]}: ...` there")
    reason = error["msg"].removeprefix("Value error, ")
    return UsageError(f"{where}: `{key}: {error['input']!r}`: {reason}", mend=f"correct `{key}` there")
