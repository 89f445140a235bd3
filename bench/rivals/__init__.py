"""The contenders that are not mxworker. `contenders.py` lists them, and a folder for each has its programs.

Each is set up as its own documentation recommends for throughput; its program names the page. The programs of Python
clients run in an environment of their own, which has what `requirements.txt` says.
"""
