"""PostgreSQL as an origin, as the source of changes, and as a destination."""
