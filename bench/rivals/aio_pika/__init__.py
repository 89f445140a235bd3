"""aio-pika, used as its documentation shows: https://docs.aio-pika.com/quick-start.html."""
