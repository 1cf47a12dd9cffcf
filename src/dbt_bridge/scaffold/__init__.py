"""dbt projects that work from their first minute: from a template, or from a database's own tables."""
