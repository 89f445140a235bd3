"""`mxworker check`: what an application would run and declare, and what is wrong with it, before it is started."""
