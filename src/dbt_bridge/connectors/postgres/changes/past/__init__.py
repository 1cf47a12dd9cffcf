"""Which past of a server a position belongs to: a restored copy, or a standby that takes over, has another one."""
