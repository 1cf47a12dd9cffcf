"""pgoutput's messages, decoded by vectors and without I/O."""
