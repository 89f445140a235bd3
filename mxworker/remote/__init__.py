"""The operator's side of the control socket: it asks a running service. Knows nothing about how the service works."""
