"""What is known of a project without dbt: its files, its profile, and what dbt said of it while all was the same."""
