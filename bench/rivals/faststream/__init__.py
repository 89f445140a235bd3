"""FastStream, see https://faststream.ag2.ai/latest/rabbit/. Its own command line takes uvloop where it is installed."""
