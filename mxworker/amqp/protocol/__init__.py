"""The frames of AMQP 0-9-1 that are on the hot path, and the ledgers over them. Sans-IO and pure."""
