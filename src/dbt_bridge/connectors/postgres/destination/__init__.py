"""PostgreSQL is written to: staged, published, changed in place, audited."""
