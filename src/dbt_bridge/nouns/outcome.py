"""What a call came to: frozen values, and the same as JSON, as Arrow and as pandas."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Self

from dbt_bridge.errors import BridgeError, require_extra

if TYPE_CHECKING:
    import pyarrow as pa


class Tabular:
    """A value that is also rows."""

    __slots__ = ()

    def to_arrow(self) -> pa.Table:
        """One row for each part."""
        raise NotImplementedError

    def to_pandas(self) -> Any:
        """`to_arrow` as a pandas data frame with Arrow's types, so that an unknown count is NULL and no NaN.

        Raises:
            MissingExtra: pandas is not installed.
        """
        with require_extra("pandas", "to_pandas"):
            import pandas as pd  # type: ignore[import-untyped]
        return self.to_arrow().to_pandas(types_mapper=pd.ArrowDtype)


class Outcome(Tabular):
    """What every call returns."""

    __slots__ = ()

    @property
    def ok(self) -> bool:
        """Whether the command of the same name would exit with 0."""
        return not self.problems

    @property
    def problems(self) -> tuple[str, ...]:
        """What failed or differs, a line for each."""
        raise NotImplementedError

    def as_document(self) -> dict[str, Any]:
        """The JSON document of `--json`, as a dictionary."""
        raise NotImplementedError

    def to_json(self) -> str:
        """The JSON document of `--json`, as text."""
        return format_document(self.as_document())

    def require_ok(self) -> Self:
        """This outcome, where all is well; for orchestrators, whose tasks fail by an exception.

        Raises:
            BridgeError: something failed or differs; its message has a line for each.
        """
        if not self.ok:
            raise BridgeError("\n".join(self.problems) or "not everything went well")
        return self

    def _make_document(self, **parts: Any) -> dict[str, Any]:
        return make_document(status="success" if self.ok else "failed", **parts)


def make_document(**parts: Any) -> dict[str, Any]:
    """The parts of a JSON document, with those that every document has."""
    return {"status": "success", "receipts": [], "dbt": None, "error": None, **parts}


def format_document(document: Mapping[str, Any]) -> str:
    """A JSON document as one line of text."""
    return json.dumps(document, ensure_ascii=False, default=str)


def rows_to_arrow(
    kind: type[Any], rows: Iterable[Any], types: Mapping[str, pa.DataType] = MappingProxyType({})
) -> pa.Table:
    """Values of one frozen dataclass as rows.

    Args:
        types: of the fields that are no text.
    """
    import pyarrow as pa

    schema = pa.schema([(field.name, types.get(field.name, pa.string())) for field in fields(kind)])
    return pa.Table.from_pylist([asdict(row) for row in rows], schema=schema)
