"""mxworker as a contender: its programs, and the ways in which it is set up."""
