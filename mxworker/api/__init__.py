"""The interface for applications: they register handlers, get deliveries, and return settlements."""
