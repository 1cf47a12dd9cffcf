"""`python -m dbt_bridge` is `dbt-bridge`."""

from dbt_bridge.cli import main

main()
