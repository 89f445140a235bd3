"""`mxworker dlq`: the commands for dead letters and quarantined messages."""
