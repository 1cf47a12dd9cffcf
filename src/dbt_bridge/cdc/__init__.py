"""Changes of an origin land in the order of its log, all tables of a source together."""
