"""The shared memory through which the master and its workers see each other."""
