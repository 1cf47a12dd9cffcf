"""The tables of an origin land in the warehouse, as they are now."""
