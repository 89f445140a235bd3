"""`mxworker publish`: publish messages from the command line, from a file, or made up."""
