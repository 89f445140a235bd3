"""Queues whose messages kill workers, one after another: which queues they are, and how often their messages may run.

`board.suspects` finds a single message that kills. But every message is new once, and a new message runs beside others.
A publisher of many killers would have all workers die all the time, and no other queue would get any work done. So all
messages of such a queue run alone, in one worker at a time, which costs the other queues at most that worker. After
each death there is a rest of 5 s, or of three times as long as that worker was away.

How the queue is found. The death of a worker in which one message ran alone is the fault of that message's queue. A
death among many running messages has no certain cause, so three of them within a minute are needed: the queues that had
messages in flight at all three are suspect. Suspect queues are tried one by one, that with the fewest messages in
flight first, since it has the least to lose. The messages of the tried queue run alone. If one of them kills, the queue
is found. If workers die among many messages without it, another queue is at fault. If no worker dies for a while,
nothing is known, and all queues run as before. A queue whose messages killed alone three times within a minute is found
without a trial. A service with one queue has no other queue to protect.

Pure. All instants are monotonic nanoseconds.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping

_NS_PER_S = 1_000_000_000
DEATHS = 3
WINDOW_NS = 60 * _NS_PER_S
TRIAL_NS = 10 * _NS_PER_S
CALM_NS = 20 * _NS_PER_S
"""How long a queue must not kill, after its last death and rest, to run as others do. It has many turns meanwhile."""
REST_NS = 5 * _NS_PER_S  # a start takes half a second of a CPU, and the dead worker's messages come a second time
REST_FACTOR = 3  # with one worker, the other queues keep three quarters of their time
LONGEST_DOWN_NS = 60 * _NS_PER_S  # then nothing waits for the worker any more: it may not be wanted


class DeadlyQueues:
    """Finds the queues whose messages kill workers."""

    def __init__(self) -> None:
        self._in_company: deque[tuple[int, Mapping[str, int]]] = deque(maxlen=DEATHS)
        self._alone: dict[str, deque[int]] = {}
        self._deadly: dict[str, int] = {}  # with the instant of the last death
        self._tried: str | None = None
        self._tried_since_ns = 0
        self._acquitted: dict[str, int] = {}
        self._down: tuple[int, int] | None = None  # the slot of the last one that died alone, and when
        self._rests_until_ns = 0

    @property
    def deadly(self) -> frozenset[str]:
        """The queues that are known to kill."""
        return frozenset(self._deadly)

    @property
    def to_run_alone(self) -> frozenset[str]:
        """The queues whose messages shall run alone."""
        return self.deadly if self._tried is None else self.deadly | {self._tried}

    def rests(self, now_ns: int) -> bool:
        """Whether no message of these queues may start: until the dead worker is back, and then for the rest."""
        return self._down is not None or now_ns < self._rests_until_ns

    def died_alone(self, slot: int, queue: str, queues: Collection[str], now_ns: int) -> None:
        """Take in that a message of `queue` killed the worker in `slot`; all `queues` are consumed there."""
        deaths = self._alone.setdefault(queue, deque(maxlen=DEATHS))
        deaths.append(now_ns)
        has_many = len(deaths) == DEATHS and now_ns - deaths[0] <= WINDOW_NS
        if queue in self.to_run_alone or (has_many and len(queues) > 1):
            self._deadly[queue] = now_ns
            self._down = (slot, now_ns)
            self._in_company.clear()  # this queue explains those deaths
            if queue == self._tried:
                self._tried = None

    def died_in_company(self, in_flight: Mapping[str, int], queues: Collection[str], now_ns: int) -> None:
        """Take in that a worker died with so many messages of each queue in flight; it consumed all `queues`."""
        if not in_flight or len(queues) < 2 or self.to_run_alone & in_flight.keys():
            return  # messages that started before they had to run alone say nothing about other queues
        if self._tried is not None:
            self._acquit(now_ns)
        self._in_company.append((now_ns, in_flight))
        if len(self._in_company) == DEATHS and now_ns - self._in_company[0][0] <= WINDOW_NS:
            counts = [counts for _, counts in self._in_company]
            always = set.intersection(*map(set, counts)) - self._acquitted.keys()
            self._tried = min(always, key=lambda queue: (sum(each[queue] for each in counts), queue), default=None)
            self._tried_since_ns = now_ns

    def look(self, ready: Collection[int], now_ns: int) -> None:
        """Take in which slots have a worker that consumes, and that time has passed."""
        if self._down is not None:
            slot, since_ns = self._down
            if slot in ready:
                rest_ns = max(REST_NS, REST_FACTOR * (now_ns - since_ns))
                self._down, self._rests_until_ns = None, now_ns + rest_ns
            elif now_ns - since_ns > LONGEST_DOWN_NS:
                self._down, self._rests_until_ns = None, now_ns
        if not ready or self._down is not None:
            self._tried_since_ns = now_ns
        elif self._tried is not None and now_ns >= self._trial_ends_ns:
            self._acquit(now_ns)
            self._in_company.clear()
        if self._down is None:
            calm_ns = {queue: max(at_ns, self._rests_until_ns) + CALM_NS for queue, at_ns in self._deadly.items()}
            self._deadly = {queue: at_ns for queue, at_ns in self._deadly.items() if now_ns < calm_ns[queue]}
        self._acquitted = {queue: at_ns for queue, at_ns in self._acquitted.items() if now_ns < at_ns + WINDOW_NS}
        self._alone = {queue: deaths for queue, deaths in self._alone.items() if now_ns - deaths[-1] <= WINDOW_NS}

    def next_wakeup(self, now_ns: int) -> int | None:
        """Return the next instant at which `look` may change something; None for never."""
        instants = [] if self._tried is None else [self._trial_ends_ns]
        if self._down is None:
            instants += [max(at_ns, self._rests_until_ns) + CALM_NS for at_ns in self._deadly.values()]
            instants += [self._rests_until_ns] if self._rests_until_ns > now_ns else []
        else:
            instants.append(self._down[1] + LONGEST_DOWN_NS + 1)
        return min(instants, default=None)

    @property
    def _trial_ends_ns(self) -> int:
        return max(self._tried_since_ns, self._rests_until_ns) + TRIAL_NS

    def _acquit(self, now_ns: int) -> None:
        """End the trial of a queue without a result."""
        assert self._tried is not None, "a queue is tried"
        self._acquitted[self._tried] = now_ns
        self._tried = None
