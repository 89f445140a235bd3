"""The publisher of a process: from `Publisher.publish` to the outcome of the publish.

The calls of one publish, in their order, when nothing stands in its way:

1. `Publisher.publish`, `Encoder.encode` and `Routes.find`: what is sent, and where it goes.
2. `Outbox.accept`: the publish has a place in the window. It has a deadline from here on, and one owner until its end.
3. `PublisherChannel.send`: it is noted in the ledger with `ConfirmLedger.add`, and its frames are encoded.
4. `DataPlane.write`: the frames of one loop turn go to the socket.
5. `DataPlane.data_received` and `FrameReader.feed`: the broker's confirm comes.
6. `ConfirmSink.on_confirm` and `ConfirmLedger.settle`: which publishes it concerns.
7. `Outbox.confirmed` and `Receipt.end`: the caller is told, and whoever waited for room goes on.

A publish that cannot be sent yet waits in `waiting.Waiting`, and `Outbox.send_waiting` sends it. `channels.Channels`
opens the channels, gives them to the outbox with `Outbox.use`, and replaces them. The states are in `publishing`.
"""
