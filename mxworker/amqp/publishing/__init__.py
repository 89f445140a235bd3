"""The publisher of a process: from `Publisher.publish` to the outcome of the publish.

The calls of one publish that does not have to wait, in order:

1. `Publisher.publish`, `Encoder.encode` and `Routes.find` make the content and the route.
2. `Outbox.accept` gives the publish a place in the window. From here on the publish has a deadline and one owner.
3. `PublisherChannel.send` enters the publish into the ledger with `ConfirmLedger.add`, and encodes its frames.
4. `DataPlane.write` sends the frames to the socket: at once, or those of one loop turn together.
5. `DataPlane.data_received` and `FrameReader.feed` receive the broker's confirm.
6. `ConfirmSink.on_confirm` and `ConfirmLedger.settle` find the publishes that are confirmed.
7. `Outbox.confirmed` and `Receipt.end` give the outcome to the caller, and send publishes that waited for room.

A publish that cannot be sent yet waits in `waiting.Waiting`, and `Outbox.send_waiting` sends it. `channels.Channels`
opens the channels, gives them to the outbox with `Outbox.use`, and replaces them. The states are in `publishing`.
"""
