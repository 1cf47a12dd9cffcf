"""dlt's pipelines and SQL client on the datasets of one destination, and its errors in the bridge's words.

Each load, and each look at a table, has a pipeline with a working folder of its own, so that several at once do not
meet.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from dbt_bridge.arrow.counted_reader import CountedReader
from dbt_bridge.errors import BridgeError, DestinationError, scrubbed
from dbt_bridge.nouns.table import Table, TableName
from dbt_bridge.system.temporary_files import temporary_folder

if TYPE_CHECKING:
    import dlt


class DltSession:
    """What is asked of a destination through dlt.

    Args:
        destination: what `dlt.destinations.snowflake(...)` and its like return.
    """

    def __init__(self, name: str, destination: Any) -> None:
        self.name = name
        self.destination = destination

    def capabilities(self) -> Any:
        """What the destination can do, as dlt describes it."""
        return self.destination.capabilities()

    @contextmanager
    def sql_client(self, name: TableName) -> Iterator[Any]:
        """dlt's SQL client on the table's dataset."""
        with self.pipeline(name) as pipeline, pipeline.sql_client() as client:
            yield client

    @contextmanager
    def pipeline(self, name: TableName) -> Iterator[dlt.Pipeline]:
        """A pipeline into the table's dataset."""
        import dlt
        from dlt.common.schema import Schema

        from dbt_bridge.connectors.dlt.naming import naming_of

        # Two tables of one dataset have two dlt schemas, so that loads at once do not overwrite each other's.
        token = hashlib.sha256(str(name).encode()).hexdigest()[:12]
        with temporary_folder("dlt") as folder, self.translate_errors(name):
            pipeline = dlt.pipeline(
                pipeline_name=f"dbt_bridge_{token}",
                pipelines_dir=str(folder),
                destination=self.destination,
                dataset_name=name.schema,
            )
            pipeline.config.restore_from_destination = False
            pipeline.config.enable_runtime_trace = False
            pipeline.config.use_single_dataset = True
            names: Any = {"names": naming_of(self.destination)}
            pipeline._inject_schema(Schema(f"dbt_bridge_{token}", names))
            try:
                yield pipeline
            finally:
                pipeline.deactivate()

    def find_table(self, name: TableName, known: Iterable[str] = ()) -> Table | None:
        """The table with Arrow types as near as dlt's own types tell.

        Args:
            known: names of columns, for a warehouse that stores them in another case.
        """
        with self.pipeline(name) as pipeline:
            return self.existing_in(pipeline, name, known)

    def existing_in(self, pipeline: dlt.Pipeline, name: TableName, known: Iterable[str] = ()) -> Table | None:
        """The table with Arrow types as near as dlt's own types tell; `existing` with a pipeline of its own."""
        from dlt.common.libs.pyarrow import get_py_arrow_datatype

        from dbt_bridge.connectors.dlt.naming import folding_of, name_columns

        with pipeline.destination_client() as client:
            if not client.is_storage_initialized() or not hasattr(client, "get_storage_table"):
                return None
            _know_old_types(client)
            found, columns = client.get_storage_table(name.name)
            if not found or not columns:
                return None
            spelled = name_columns((c["name"] for c in columns.values()), known, folding_of(self.destination), name)
            fields = [
                pa.field(
                    spelled[c["name"]],
                    get_py_arrow_datatype(c, client.capabilities, "UTC"),
                    nullable=bool(c.get("nullable", True)),
                )
                for c in columns.values()
            ]
        return Table.of_schema(name, pa.schema(fields))

    def count(self, pipeline: dlt.Pipeline, name: TableName) -> int | None:
        """The destination's own count; None where it has no SQL."""
        found = self.select(pipeline, name)
        return None if found is None else int(found[0][0])

    def select(self, pipeline: dlt.Pipeline, name: TableName, columns: tuple[str, ...] = ()) -> list[Any] | None:
        """The values of some columns, or the number of rows where none are named; None without SQL."""
        from dlt.destinations.job_client_impl import SqlJobClientBase

        with pipeline.destination_client() as client:
            if not isinstance(client, SqlJobClientBase):
                return None
            sql = client.sql_client
            what = ", ".join(sql.escape_column_name(c) for c in columns) or "count(*)"
            statement = f"SELECT {what} FROM {sql.make_qualified_table_name(name.name)}"  # noqa: S608
            with sql.execute_query(statement) as cur:
                return list(cur.fetchall())

    @contextmanager
    def translate_errors(self, name: TableName, passing: CountedReader | None = None) -> Iterator[None]:
        """Raise dlt's errors as DestinationError.

        Args:
            passing: the rows that dlt was loading; what reading them raised is raised as it is.
        """
        try:
            yield
        except BridgeError:
            raise
        except Exception as error:
            if passing is not None and passing.failure is not None:
                raise passing.failure from None
            did = "failed with" if passing is None else "could not load"
            raise DestinationError(
                f"dlt {did} {name} in {self.name!r}: {_cause(error)}",
                mend=f"check [destination.{self.name}] in .dlt/secrets.toml and the rights there, then run it again",
            ) from error


def _know_old_types(client: Any) -> None:
    """BigQuery gives columns of a hidden dataset (`_dbt_bridge`) their older types, which dlt 1.31 takes for text.

    https://cloud.google.com/bigquery/docs/reference/rest/v2/tables#TableFieldSchema
    """
    if client.capabilities.sqlglot_dialect == "bigquery":
        mapper = client.type_mapper
        mapper.dbt_to_sct = {**mapper.dbt_to_sct, "INTEGER": "bigint", "FLOAT": "double", "BOOLEAN": "bool"}


def _cause(error: BaseException) -> str:
    """The innermost message: dlt wraps an error once per step."""
    while (inner := error.__cause__ or getattr(error, "exception", None)) is not None and inner is not error:
        error = inner
    return scrubbed(str(error)).strip() or type(error).__name__
