"""The status page: the overview as one document of HTML."""
