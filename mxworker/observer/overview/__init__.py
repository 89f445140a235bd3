"""What is told of a service: its state, its problems, and its figures now and in the last 15 minutes."""
