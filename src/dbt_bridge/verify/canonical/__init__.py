"""The canonical form of values, and its digest."""
