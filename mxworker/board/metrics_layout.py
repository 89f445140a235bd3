"""The layout of the metrics area of a slot, which is the last area of the slot.

Only the slot's worker writes it while it lives. It belongs to the slot and not to the process: counters go on when the
worker is replaced, and the master sets the gauges to 0 then. A word has 8 bytes. It is an unsigned integer, or, among
the *seconds*, a double:

    field            size          meaning
    -----            ----          -------
    process          256 x 8       see `ProcessWord` and `ProcessSeconds`: facts of the process, and two histograms
    rows             66 x 128 x 8  see `RowWord` and `RowSeconds`: one row for each queue with its handler, and four
                                   histograms
    row names        66 x 512      the queue and the handler of each row, 256 bytes each, padded with NUL
    exchanges        65 x 8 x 8    see `ExchangeWord`: one row for each exchange that was published to
    exchange names   65 x 256      the exchange of each row
    failures         1024 x 128    see `FailureWord`: one for each row and type of error, and the type

A row is found again by its names, so a later worker adds to the counters of its predecessors, in whatever order its
handlers are. The row after those of each kind is for everything that finds no free row. The name is written before the
row is counted as used. A page of memory that was never written takes no memory.

A handler that the code before the last reload did not have any more is a *former* one. It is not shown, and a worker
that has no free row takes its row; a last row keeps what the slot has counted in such rows. A series goes in all slots
at the same time, so that none of its values is less than an earlier one.

Pure.
"""

from __future__ import annotations

from enum import IntEnum, auto

BOUNDS_S = (0.001, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 30.0, 60.0, 300.0)
"""The bounds of all histograms: those of OpenTelemetry's messaging conventions, and 0.001, 30, 60 and 300 s."""
BUCKETS = len(BOUNDS_S) + 1
"""The words of a histogram: the numbers of values, not cumulative, the last one for what is above all bounds.

The sum of the values is among the seconds.
"""

ROWS = 64
OTHER_ROW = ROWS
FORMER_ROW = ROWS + 1
ALL_ROWS = ROWS + 2
EXCHANGES = 64
OTHER_EXCHANGE = EXCHANGES
FAILURES = 1024
FAILURE_TYPES = 50
"""How many types of errors a row tells apart. The others are counted together."""
NAME_BYTES = 256
ERROR_TYPE_BYTES = 96
OTHER = "other"

WORD_BYTES = 8
PROCESS_WORDS = 256
ROW_WORDS = 128
SECONDS = 16
"""How many words at the end of the process' words, and of each row, are doubles."""
ROW_NAMES_BYTES = 2 * NAME_BYTES
EXCHANGE_WORDS = 8
FAILURE_BYTES = 128


class Outcome(IntEnum):
    """How a delivery ended here. Each delivery that ends has one outcome; its word in the row has the same number.

    A delivery that is given back before its handler has run has none, unless it is stale.
    """

    ACK = 0
    REQUEUE = auto()
    """Its handler failed or asked for it, and it is executed again soon. Also: it goes back since no copy was taken."""
    RETRY = auto()
    """A copy waits in a retry queue."""
    REJECT = auto()
    """It was dead-lettered or dropped."""
    DECODE_ERROR = auto()
    """As REJECT, since it could not be decoded."""
    TIMEOUT = auto()
    """Its handler ran out of time, whatever became of the delivery: a retry, a dead letter, or another ending."""
    STALE = auto()
    """Its channel was lost before it was settled, so the broker delivers it again."""
    QUARANTINE = auto()
    """It had killed workers, and was put into quarantine."""


OUTCOMES = tuple(outcome.name.lower() for outcome in Outcome)


class RowWord(IntEnum):
    """The words of a row that are no `Outcome`. The gauges are those from SLOTS to IS_CONSUMED."""

    REDELIVERED = len(Outcome)
    BYTES_RECEIVED = auto()
    OTHER_FAILURES = auto()
    """Failures of types that have no entry of their own."""

    SLOTS = 16
    """How many deliveries or batches may run at once."""
    IN_FLIGHT = auto()
    PREFETCHED = auto()
    """How many deliveries wait here for their handler."""
    STUCK = auto()
    IS_PAUSED = auto()
    IS_CONSUMED = auto()

    READY = 24
    """From here on the facts of the queue when it was looked at. Each is one more than the number, and 0 is unknown."""
    CONSUMERS = auto()
    RETRY_WAITING = auto()
    DEAD_LETTERS = auto()
    QUARANTINED = auto()

    GENERATION = 30
    """The generation of the code that had this handler last."""

    WAIT = 32
    """From here on four histograms."""
    DURATION = WAIT + BUCKETS
    AGE = DURATION + BUCKETS
    END_TO_END = AGE + BUCKETS


class RowSeconds(IntEnum):
    """The seconds of a row, counted from the first of them. Instants count from 1970."""

    WAIT = 0
    """From here on the sums of the histograms."""
    DURATION = auto()
    AGE = auto()
    END_TO_END = auto()
    BUSY = auto()
    """The time for which handlers have run. The time of those that still run is added at each heartbeat."""
    LAST_DELIVERY_AT = auto()
    LOOKED_AT = auto()
    """When the queue was looked at; written after the facts."""
    OBJECTIVE = auto()
    """The age that the handler's messages should not exceed; 0 when it names none. A gauge."""


ROW_GAUGES = range(RowWord.SLOTS, RowWord.IS_CONSUMED + 1)


class Role(IntEnum):
    """What a connection is for."""

    CONSUME = 0
    PUBLISH = auto()
    HANDLERS = auto()
    """Its channels are lent to handlers."""


class ConnectionState(IntEnum):
    """The state of a connection. It is active when it consumes, publishes, or has a borrowed channel."""

    ACTIVE = 0
    IDLE = auto()
    CONNECTING = auto()


class ChannelState(IntEnum):
    """The state of a channel. It is active when it consumes, publishes, or is borrowed."""

    ACTIVE = 0
    IDLE = auto()


class Cause(IntEnum):
    """What a publish waits for, see `PublisherStats.waiting_for`."""

    WINDOW = 0
    CONNECTION = auto()
    ROOM = auto()
    EXCHANGE = auto()
    SAME_ID = auto()
    RETRY = auto()

    @property
    def label(self) -> str:
        """The cause in words."""
        return self.name.lower().replace("_", " ")


class Loss(IntEnum):
    """Why a connection was made anew."""

    CLOSED_BY_BROKER = 0
    LOST = auto()
    SILENT = auto()
    """The broker sent nothing for two heartbeats."""
    CLOSED_BY_US = auto()
    """The broker's frames could not be read, or it did not answer a request."""


class ProcessWord(IntEnum):
    """The words of the process. Those from PUBLISH_IN_FLIGHT to the last of CHANNELS are gauges."""

    ROWS_USED = 0
    EXCHANGES_USED = auto()
    FAILURES_USED = auto()
    LOG_LINES_DROPPED = auto()
    RECONNECTS = auto()
    """From here on one for each `Loss`."""

    PUBLISH_IN_FLIGHT = 32
    IS_PUBLISH_BLOCKED = auto()
    BORROWED_CHANNELS = auto()
    PUBLISH_WAITING = auto()
    """From here on one for each `Cause`."""
    CONNECTIONS = 48
    """From here on one for each `Role` with each `ConnectionState`."""
    CHANNELS = 60
    """From here on one for each `Role` with each `ChannelState`."""

    POOL_WAIT = 96
    """From here on two histograms."""
    CONFIRM = POOL_WAIT + BUCKETS


PROCESS_GAUGES = range(ProcessWord.PUBLISH_IN_FLIGHT, ProcessWord.CHANNELS + len(Role) * len(ChannelState))


class ProcessSeconds(IntEnum):
    """The seconds of the process, counted from the first of them."""

    POOL_WAIT = 0
    CONFIRM = auto()
    CPU = auto()
    LOOP_LAG = auto()
    """The longest time that the event loop took to answer, of the last 5 s. A gauge; a thread writes it."""


class ExchangeWord(IntEnum):
    """The words of an exchange: how its publishes ended, and the bytes of their bodies."""

    CONFIRMED = 0
    NACKED = auto()
    RETURNED = auto()
    UNCONFIRMED = auto()
    """The fate of the publish is unknown, or it was never sent."""
    OVERFLOW = auto()
    """Refused, since the window was full or the broker took no publishes."""
    DROPPED = auto()
    """Refused at a full window with `overflow="drop"`."""
    BYTES_SENT = auto()


PUBLISH_OUTCOMES = tuple(word.name.lower() for word in ExchangeWord if word is not ExchangeWord.BYTES_SENT)


class FailureWord(IntEnum):
    """The words of a type of error in one row. Its name follows them."""

    ROW = 0
    COUNT = auto()
    LAST_AT = auto()
    """When it was counted last, in seconds since 1970, as a double."""


ERROR_TYPE_AT = FAILURE_BYTES - ERROR_TYPE_BYTES

ROWS_AT = PROCESS_WORDS * WORD_BYTES
ROW_NAMES_AT = ROWS_AT + ALL_ROWS * ROW_WORDS * WORD_BYTES
EXCHANGES_AT = ROW_NAMES_AT + ALL_ROWS * ROW_NAMES_BYTES
EXCHANGE_NAMES_AT = EXCHANGES_AT + (EXCHANGES + 1) * EXCHANGE_WORDS * WORD_BYTES
FAILURES_AT = EXCHANGE_NAMES_AT + (EXCHANGES + 1) * NAME_BYTES
METRICS_BYTES = FAILURES_AT + FAILURES * FAILURE_BYTES
