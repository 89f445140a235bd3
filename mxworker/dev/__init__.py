"""Autoreload for `mxworker dev`: an outer process that watches files and tells the service to reload."""
