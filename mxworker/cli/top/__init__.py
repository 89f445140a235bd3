"""`mxworker top`: a service in a terminal, looked at every second."""
