"""Two relations are compared: digests, values, parity and its report."""
