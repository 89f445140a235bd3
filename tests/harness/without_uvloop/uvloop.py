"""Stands in front of an installed uvloop, for services that shall run on asyncio's event loop."""

raise ImportError("this service runs without uvloop")
