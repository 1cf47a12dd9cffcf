"""fakesnow 0.12 as a server for the stock clients: run by the Python of the emulator's own venv.

What real Snowflake takes and the emulator does not is rewritten here, in front of it, and nowhere in the product:
several statements in one text, a table's stage as a literal with quoted parts, a quoted option of COPY. So are the
NULL timestamps that it loses on their way out, and its own MERGE, which loses columns: DuckDB's is taken.

    python fakesnow_server.py PORT
"""

import importlib
import re
import sys

import pyarrow as pa
import pyarrow.compute as pc
import sqlglot
import uvicorn
from fakesnow.cursor import FakeSnowflakeCursor
from snowflake.connector.errors import Error, ProgrammingError

SERVER = importlib.import_module("fakesnow.server")  # the package has a function of this name
ARROW = importlib.import_module("fakesnow.arrow")
_timestamps = ARROW.timestamp_to_sf_struct
_STAGE = re.compile(r"'@([^']*)'")
_MATCH = re.compile(r"MATCH_BY_COLUMN_NAME\s*=\s*'(\w+)'", re.IGNORECASE)
_PARQUET = re.compile(r"\(TYPE = 'PARQUET'[^)]*\)")
_execute, _parse_one = FakeSnowflakeCursor.execute, SERVER.parse_one


def rewritten(sql: str) -> list[str]:
    if re.match(r"\s*(PUT|COPY)\b", sql, re.IGNORECASE):
        sql = _STAGE.sub(lambda m: "@" + m[1].replace('"', ""), sql)
        return [_PARQUET.sub("(TYPE = 'PARQUET')", _MATCH.sub(r"MATCH_BY_COLUMN_NAME=\1", sql))]
    if ";" in sql.strip().rstrip(";"):
        several = [one for one in sqlglot.parse(sql, read="snowflake") if one is not None]
        if len(several) > 1:
            return [one.sql(dialect="snowflake") for one in several]
    return [sql]


def execute(self, command, *args, **kwargs):
    try:
        for one in rewritten(command):
            _execute(self, one, *args, **kwargs)
        if command.lstrip().upper().startswith("MERGE"):  # whose result DuckDB cannot describe
            _execute(self, "SELECT 0 AS merged")
    except Error:
        raise
    except Exception as error:  # else it answers 500, which clients ask again for ever
        raise ProgrammingError(f"{type(error).__name__}: {error}", errno=1003, sqlstate="42000") from error
    return self


importlib.import_module("fakesnow.transforms").merge = lambda expression: [expression]
SERVER.parse_one = lambda sql: _parse_one(rewritten(sql)[-1])
FakeSnowflakeCursor.execute = execute


def timestamps(column):
    """The emulator forgets which of them are NULL, and answers 1970."""
    whole = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    struct = _timestamps(pc.fill_null(whole, 0))
    return pa.StructArray.from_arrays(struct.flatten(), fields=list(struct.type), mask=whole.is_null())


ARROW.timestamp_to_sf_struct = timestamps

uvicorn.run(SERVER.app, host="127.0.0.1", port=int(sys.argv[1]), log_level="info")
