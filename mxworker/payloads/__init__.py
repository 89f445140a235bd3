"""From the bytes of a body to a value, and back. Pure; knows nothing about deliveries."""
