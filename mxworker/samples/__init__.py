"""Make up a valid payload from the annotation of a handler. Pure."""
