"""The embedded broker: AMQP 0-9-1 in memory, for development and tests, in a process of its own.

It behaves as RabbitMQ does where clients can see it (docs/embedded-broker.md has the differences), and it loses
everything when it ends. `process.start_broker` starts it as a child process, `server.EmbeddedBroker` in a running
event loop.

Modules that decide are pure: `exchanges`, `queues`, `ready`, `consumers`, `dead_letters`, `arguments`, `topology`,
`message`, `unacked`, `confirms`, `frames`, `handshake`. The parts of a channel (`publishing`, `consuming`,
`declaring`) and `vhost` put them together; `connection`, `server`, `control` and `process` do the I/O.
"""
