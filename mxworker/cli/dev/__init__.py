"""`mxworker dev`: run a service that reloads when its code changes."""
