"""What the measured programs share. They need the standard library alone: rivals run in environments of their own."""
