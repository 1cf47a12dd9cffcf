"""What a dbt Python model calls: `transfer`, `api_to_df`, and the ghost sources that it may name."""
