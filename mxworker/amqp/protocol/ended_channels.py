"""Which frames of the AMQP library may still be written on a channel that is ending.

Pure. Once a channel has ended, the broker takes the next frame on its number as the first one of a new channel. Unless
that is channel.open, it ends the connection: "504 CHANNEL_ERROR - expected 'channel.open'", and delivers all that was
unsettled again. The library writes such frames when a request is cancelled while its channel ends: a channel.close
after its own channel.close-ok, or a second channel.close.

    OPEN -- channel.close is written --> CLOSING -- channel.close-ok is written --> ENDED -- channel.open --> OPEN
     +----------------------------- channel.close-ok is written ------------------->+

In CLOSING a channel.close-ok may pass, because both sides may close a channel at the same time (AMQP 0-9-1, 1.5.2.5).
"""

from __future__ import annotations

import struct
from enum import Enum, auto

from mxworker.amqp.protocol import frames as f

_head = struct.Struct(">BHI").unpack_from
_method = struct.Struct(">I").unpack_from
_HEAD_BYTES = 7
_NO_METHOD = 0


class _State(Enum):
    CLOSING = auto()
    ENDED = auto()


class EndedChannels:
    """The channels of one connection that are closing or have ended, by what was written on them."""

    def __init__(self) -> None:
        self._states: dict[int, _State] = {}  # a channel that is open is not here

    def lets_pass(self, frames: bytes | bytearray | memoryview) -> bool:
        """Tell whether to write these whole frames of one channel, and note what the first one does to the channel."""
        kind, number, _ = _head(frames)
        method = _method(frames, _HEAD_BYTES)[0] if kind == f.FRAME_METHOD else _NO_METHOD
        match self._states.get(number), method:
            case _, f.CHANNEL_OPEN:
                self._states.pop(number, None)
            case None, f.CHANNEL_CLOSE:
                self._states[number] = _State.CLOSING
            case ((None | _State.CLOSING), f.CHANNEL_CLOSE_OK):
                self._states[number] = _State.ENDED
            case None, _:
                pass
            case _:
                return False
        return True
