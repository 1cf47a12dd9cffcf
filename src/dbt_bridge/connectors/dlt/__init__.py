"""Every destination that dlt loads, and its settings."""
