"""Spans of OpenTelemetry for publishes and for executions of handlers."""
