"""Loads and changes on their way to a table, wherever it lies: checks, keys, compaction, runs, logs, audit tables."""
