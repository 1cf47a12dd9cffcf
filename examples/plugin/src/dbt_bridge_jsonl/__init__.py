"""Folders of JSON lines: an origin and a destination for dbt-bridge, and the example of a connector of one's own."""
