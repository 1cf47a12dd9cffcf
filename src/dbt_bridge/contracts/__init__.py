"""What an origin, a destination and a side of a comparison guarantee to whoever uses them."""
