"""A shop in a real PostgreSQL, built, delivered and proven on the user's own machine."""
