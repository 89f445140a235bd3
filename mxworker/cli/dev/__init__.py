"""`mxworker dev`: a service that reloads when its code changes."""
