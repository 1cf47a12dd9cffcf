"""Values in Arrow: exact casts, Python rows and frames, masks, types of files. Knows no database.

A column's type is decided in four acts, each in one place:

    natural type     which Arrow type keeps every value of the origin's type, and how such a column is read
                       connectors/postgres/origin/column_types.py
                       connectors/sqlalchemy/column_types.py, mysql_types.py and sqlite_types.py
                       arrow/python_rows.py, for rows that are Python values
    override         which type a name under `types:` in the YAML means
                       arrow/type_names.py
    landing type     what a column travels as so that it lands exactly: its type, a wider one, or text (`map_column`)
                       connectors/duckdb/column_types.py
                       connectors/postgres/destination/column_types.py
                       connectors/dlt/destination.py
                       arrow/file_types.py, for Delta tables and Parquet files
    canonical form   in which form two values are compared, and what is hashed of them
                       contracts/canon.py; of Arrow arrays in verify/canonical/
                       connectors/postgres/wire/digest_sql.py, in PostgreSQL's SQL

Changes that are captured from Postgres follow the natural types of its origin; how they are decoded from the
replication protocol is in connectors/postgres/changes/values/.
"""
