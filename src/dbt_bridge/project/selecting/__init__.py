"""dbt's selector syntax, for what dbt cannot say: what an exclusion names, and tables that it does not know."""
