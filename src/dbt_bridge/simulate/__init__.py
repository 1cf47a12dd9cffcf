"""`dbt-bridge simulate`: exactly so many transactions at an origin, so that there is something to follow."""
