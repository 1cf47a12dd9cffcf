"""The cells of pgoutput's tuples become Arrow arrays, exactly as the initial copy lands the same values."""
