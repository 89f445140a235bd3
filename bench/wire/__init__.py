"""A server that is nothing but the wire: it can be consumed from and published to, and costs next to nothing.

With RabbitMQ on the same machine the broker is the limit of a benchmark; with this server the client is. It keeps no
messages: a consumer gets copies of one delivery, with other tags, and what is published is counted and confirmed by the
hundred. There is one queue, and whatever a client declares is answered with ok.

`replies.py` makes the frames in advance. Two servers send them: `server.c`, when there is a C compiler, else
`plain_server.py`, whose own cost is about that of the client. `server.py` starts one of them.
"""
