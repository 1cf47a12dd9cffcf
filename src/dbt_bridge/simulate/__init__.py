"""`dbt-bridge simulate`: exactly so many transactions at an origin, so that there is something to follow."""

from dbt_bridge.simulate.mix import Mix, Simulated, simulate

__all__ = ["Mix", "Simulated", "simulate"]
