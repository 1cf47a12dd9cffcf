"""PostgreSQL is read: catalog, types, and rows of one exported snapshot."""
