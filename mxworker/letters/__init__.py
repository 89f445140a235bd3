"""Dead letters and quarantined messages, as an operator handles them: look, replay, export, import, move, purge."""
