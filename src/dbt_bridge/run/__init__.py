"""What a command does, from its beginning to its end: the only room that knows all others, a page for each."""
