"""One worker process: it turns deliveries into settlements. Knows nothing about the master or other workers."""
