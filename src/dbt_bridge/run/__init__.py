"""sync -> dbt build -> deliver: the only place that knows all rooms."""

from dbt_bridge.run.build import Options, Outcome, build, deliver, sync

__all__ = ["Options", "Outcome", "build", "deliver", "sync"]
