"""The observer: one child of the master that serves metrics, probes and the status page over HTTP."""
