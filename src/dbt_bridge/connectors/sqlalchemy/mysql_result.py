"""What MySQL and MariaDB say of a result's columns, in the words of `information_schema.columns.column_type`.

https://dev.mysql.com/doc/dev/mysql-server/latest/page_protocol_com_query_response_text_resultset_column_definition.html
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from dbt_bridge.errors import UsageError

_BINARY_CHARSET, _UNSIGNED = 63, 32
_KINDS = {
    1: "tinyint", 2: "smallint", 3: "int", 4: "float", 5: "double", 6: "varchar", 7: "timestamp", 8: "bigint",
    9: "mediumint", 10: "date", 11: "time", 12: "datetime", 13: "year", 14: "date", 245: "longtext", 247: "enum",
    248: "set", 255: "geometry",
}  # fmt: skip
_DECIMALS, _BIT, _TEXTS = (0, 246), 16, (15, 249, 250, 251, 252, 253, 254)


def described(connection: sa.Connection, statement: sa.TextClause) -> dict[str, str]:
    """The type of each column of a result, by name.

    Raises:
        UsageError: the driver is not PyMySQL, which alone tells all of it.
    """
    result = connection.execute(statement)
    fields = getattr(getattr(result.cursor, "_result", None), "fields", None)
    result.close()
    if fields is None:
        raise UsageError(
            f"the driver {connection.dialect.driver!r} does not tell the types of expressions",
            mend="connect with mysql+pymysql://, or compare plain columns of a relation",
        )
    return {field.name: kind(field) for field in fields}


def kind(field: Any) -> str:
    """The column type of a PyMySQL field."""
    unsigned = bool(field.flags & _UNSIGNED)
    if field.type_code in _DECIMALS:  # its length counts the sign and the point (my_decimal_length_to_precision)
        precision = field.length - (0 if unsigned else 1) - (1 if field.scale else 0)
        return f"decimal({min(max(precision, field.scale, 1), 65)},{field.scale})"
    if field.type_code == _BIT:
        return f"bit({field.length})"
    if field.type_code in _TEXTS:
        return "varbinary" if field.charsetnr == _BINARY_CHARSET else "varchar"
    return _KINDS[field.type_code] + (" unsigned" if unsigned else "")
