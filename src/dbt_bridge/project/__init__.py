"""The only reader of dbt's YAML, manifest, profiles and settings, and the only caller of dbt."""
