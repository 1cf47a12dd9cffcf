"""One folder for each technology, whether rows are read from it or written to it."""
