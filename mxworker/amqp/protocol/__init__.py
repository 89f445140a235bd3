"""The AMQP 0-9-1 frames of the hot path, and the ledgers of acks and confirms. Sans-IO and pure."""
