"""PostgreSQL's log is followed: slots, publications, the replication protocol, and what a change means."""
