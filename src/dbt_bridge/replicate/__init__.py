"""Changes on their way to a table, without any database: compaction, merge keys, runs, logs."""
