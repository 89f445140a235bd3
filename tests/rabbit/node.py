"""One private RabbitMQ node: its own ports, name, cookie and data directory, on loopback only.

It needs no rights and touches nothing outside its data directory. It knows nothing about tests.

Invariants: every process of the node carries the data directory as its mark (see `processes`); after `stop()` or
`kill()` returned there is none left. The name server of Erlang, epmd, is a private one too: the shared daemon that
Erlang would start by itself outlives whoever caused it.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.rabbit import processes
from tests.rabbit.installation import Installation, find_rabbitmq, make_slim_home
from tests.rabbit.ports import LOOPBACK, amqp_version, free_port, listens

START_TIMEOUT_S = 120.0
STOP_PATIENCE_S = 20.0
CTL_TIMEOUT_S = 180.0
_HELPER_PATIENCE_S = 5.0
_LOG_PATIENCE_S = 60.0  # for a machine that is busy: the broker writes its log when it has time
_TAIL_CHARS = 8000  # RabbitMQ 4 prints half as much after the line that tells the cause
_PRECONDITION_FAILED = re.compile(r"precondition_failed", re.IGNORECASE)
_PORT_TAKEN = "eaddrinuse"
_MOVES = 3
_TEST_QUEUE = re.compile(r"test-[0-9a-f]{12}")  # what the fixture `queue_name` makes, unique for each test
_ONLY_LOOPBACK = "-kernel inet_dist_use_interface {127,0,0,1}"
# Erlang must use the private epmd or none. Two schedulers: what there are cores for on a small machine.
_SERVER_ARGS = "+S 2:2 -start_epmd false " + _ONLY_LOOPBACK


class NodeError(Exception):
    """The node did not start, or rabbitmqctl failed; the text ends with what they printed."""


class Epmd:
    """A private Erlang port mapper in the foreground; nodes of one cluster share one."""

    def __init__(self, data: Path, port: int | None = None) -> None:
        self.port = port or free_port()
        self._data = data
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def env(self) -> dict[str, str]:
        """What a node has to have in its environment to use this port mapper."""
        return {"ERL_EPMD_PORT": str(self.port), "ERL_EPMD_ADDRESS": LOOPBACK}

    def start(self) -> None:
        """Start it and wait until it listens. Started already: nothing happens."""
        if self._process is not None:
            return
        self._data.mkdir(parents=True, exist_ok=True)
        output = self._data / "epmd.log"
        env = {"PATH": os.environ.get("PATH", os.defpath), **processes.mark(self._data), **self.env}
        self._process = processes.spawn([*find_rabbitmq().enter, "epmd"], env, self._data, output)
        deadline = time.monotonic() + START_TIMEOUT_S
        while not listens(self.port):
            if self._process.poll() is not None or time.monotonic() >= deadline:
                self.stop()
                raise NodeError(f"epmd did not start on port {self.port}:\n{_tail(output)}")
            time.sleep(processes.POLL_S)

    def stop(self) -> None:
        """End it. Not started, or stopped already: nothing happens."""
        if self._process is not None:
            processes.end(self._process, signal.SIGTERM, _HELPER_PATIENCE_S)
            self._process = None


class Node:
    """A RabbitMQ node that starts, stops and crashes when told to.

    `config` is appended to rabbitmq.conf (`key = value` lines), `advanced_config` is the whole advanced.config (Erlang
    terms). `epmd` is shared by the nodes of a cluster; without one the node has its own. `rabbitmq` is the
    installation to run; default: that of the test run. Data outlive `stop()` and `kill()`, so that `start()` comes back
    with the queues.

    You must call `start()` from a thread that outlives the node: it dies with that thread.
    """

    def __init__(
        self,
        data: Path,
        *,
        name: str = "mxworker",
        port: int | None = None,
        dist_port: int | None = None,
        cookie: str = "mxworker-private-node",
        config: str = "",
        advanced_config: str = "",
        epmd: Epmd | None = None,
        rabbitmq: Installation | None = None,
    ) -> None:
        self.data = data.absolute()
        self.name = f"{name}@{LOOPBACK}"  # an address, because a bare container cannot resolve "localhost"
        self.port = port or free_port()
        self.dist_port = dist_port or free_port()
        self.cookie = cookie
        self.config = config
        self.advanced_config = advanced_config
        self._owns_epmd = epmd is None
        self._epmd = epmd or Epmd(self.data)
        self._rabbitmq = rabbitmq or find_rabbitmq()
        self._process: subprocess.Popen[bytes] | None = None
        self._is_bound = port is not None or dist_port is not None  # to its ports: somebody knows them
        self._excused: list[tuple[int, int]] = []
        self._announced: dict[str, str] = {}  # names of queues, with the test that has announced 406s about them

    @property
    def url(self) -> str:
        """Where a client connects."""
        return f"amqp://guest:guest@{LOOPBACK}:{self.port}/"

    @property
    def pid(self) -> int | None:
        """The Erlang machine's process id; None while the node is down."""
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Start the node and return when it answers AMQP. Running already: nothing happens.

        Another program may take a port between our choice and the node's start: a node that was never there moves then.
        """
        for left in reversed(range(_MOVES + 1)):
            self.launch()
            try:
                self.wait_until_ready()
            except NodeError as error:
                if self._is_bound or not left or _PORT_TAKEN not in str(error):
                    raise
                self.port, self.dist_port = free_port(), free_port()
            else:
                break

    def launch(self) -> None:
        """Start the node without waiting, so that several can boot side by side."""
        if self._process is not None:
            return
        self._epmd.start()
        self._write_files()
        home = make_slim_home(self._rabbitmq.home, self.data / "home")
        server = home / "sbin" / "rabbitmq-server"
        self._process = processes.spawn(
            [*self._rabbitmq.enter, server], self._environment(home), self.data, self._console
        )

    def wait_until_ready(self, timeout_s: float = START_TIMEOUT_S) -> None:
        """Return when the node answers the AMQP greeting; NodeError, with the end of its log, when it does not.

        It has to be the version that the run announced: nobody shall believe in a run on another one.
        """
        deadline = time.monotonic() + timeout_s
        while (version := amqp_version(self.port)) is None:
            if self._process is None or self._process.poll() is not None:
                self._fail("ended while it started")
            if time.monotonic() >= deadline:
                self._fail(f"was not ready after {timeout_s:g} s")
            time.sleep(processes.POLL_S)
        self._is_bound = True
        if version != self._rabbitmq.version and self._rabbitmq.version:
            self._fail(f"is RabbitMQ {version}, not {self._rabbitmq.version}")

    def stop(self) -> None:
        """Stop the node in order, its helpers and its epmd. Not running: nothing happens."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Crash the node: SIGKILL. What it had not written is lost; `start()` brings it back.

        What it had not written includes a queue declared in the last second, with all it confirmed: see `sync`.
        """
        self._end(signal.SIGKILL)

    def sync(self) -> None:
        """Bring to disk which queues there are; call it between declaring one and `kill()`.

        RabbitMQ 3.10 writes two lists late: that of all queues, so that one is missing after a crash, and that of
        quorum queues, about a second late: one that is missing there comes back under a new identity, empty and without
        a leader, and every later basic.get on it hangs.
        """
        self.ctl("eval", "ok = mnesia:sync_log(), ok = dets:sync(ra_directory_reverse).")

    def ctl(self, *arguments: str) -> str:
        """Run rabbitmqctl against this node (about a second) and return what it printed; NodeError when it failed."""
        home = make_slim_home(self._rabbitmq.home, self.data / "home")
        done = subprocess.run(
            [*self._rabbitmq.enter, home / "sbin" / "rabbitmqctl", "--quiet", "--node", self.name, *arguments],
            env=self._environment(home),
            cwd=self.data,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=CTL_TIMEOUT_S,
            check=False,
        )
        if done.returncode != 0:
            raise NodeError(
                f"rabbitmqctl {' '.join(arguments)} failed ({done.returncode}):\n{done.stdout}{done.stderr}"
            )
        return done.stdout

    @contextmanager
    def user(self, may_write: str = ".*") -> Iterator[str]:
        """Add a user for as long as the block runs, who may write to what the pattern names; return the URL for it."""
        name = f"user-{uuid.uuid4().hex[:8]}"
        self.ctl("add_user", name, "secret")
        self.ctl("set_permissions", name, ".*", may_write, ".*")
        yield self.url.replace("guest:guest", f"{name}:secret")
        self.ctl("delete_user", name)

    @contextmanager
    def hung(self, queue: str) -> Iterator[None]:
        """Let the process of a quorum queue answer nobody for as long as the block runs."""
        process = f'whereis(binary_to_atom(<<"%2F_{queue}">>))'
        self.ctl("eval", f"sys:suspend({process}).")
        try:
            yield
        finally:
            self.ctl("eval", f"sys:resume({process}).")

    def messages_in(self, queue: str) -> int:
        """Return how many messages `queue` holds, unsettled ones included; a quorum queue tells up to 5 s late."""
        rows = (
            row.split("\t") for row in self.ctl("list_queues", "--no-table-headers", "name", "messages").splitlines()
        )
        return next(int(messages) for name, messages in rows if name == queue)

    def log_text(self) -> str:
        """Return the broker's log so far, over all its starts."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    @contextmanager
    def expect_precondition_failed(self, least: Callable[[], int] = lambda: 1) -> Iterator[None]:
        """Announce that the body provokes 406s; it is an error when the log then does not show `least()` of them."""
        begin = len(self.log_text())
        yield
        times = least()
        deadline = time.monotonic() + _LOG_PATIENCE_S
        while len(shown := self._not_of_others(self.log_text()[begin:])) < times:
            if time.monotonic() >= deadline:
                raise AssertionError(
                    f"{times} times a PRECONDITION_FAILED was announced, but the broker's log shows {len(shown)}"
                )
            time.sleep(processes.POLL_S)
        text = self.log_text()
        self._excused.append((begin, len(text)))
        for line in self._not_of_others(text[begin:]):
            self._announced |= dict.fromkeys(_TEST_QUEUE.findall(line), _running_test())

    def precondition_failures(self) -> list[str]:
        """Return the lines of the broker's log that tell of a 406 nobody announced.

        A line about the queues of a test that announced one counts as announced, since a request that the test did not
        wait for may be refused later.
        """
        text = self.log_text()
        for begin, end in reversed(self._excused):
            text = text[:begin] + text[end:]
        return [line for line in _refusals(text) if self._announced.keys().isdisjoint(_TEST_QUEUE.findall(line))]

    def _not_of_others(self, log_text: str) -> list[str]:
        """Return the refusals but those that other tests have announced: they may come late."""
        others = {name for name, test in self._announced.items() if test != _running_test()}
        return [line for line in _refusals(log_text) if others.isdisjoint(_TEST_QUEUE.findall(line))]

    @property
    def _log(self) -> Path:
        return self.data / "log" / "rabbit.log"

    @property
    def _console(self) -> Path:
        return self.data / "log" / "console.log"

    def _write_files(self) -> None:
        for folder in ("log", "mnesia"):
            (self.data / folder).mkdir(parents=True, exist_ok=True)
        (self.data / "enabled_plugins").write_text("[].\n")
        (self.data / "rabbitmq.conf").write_text(f"listeners.tcp.1 = {LOOPBACK}:{self.port}\n{self.config}\n")
        (self.data / "advanced.config").write_text(self.advanced_config or "[].\n")
        cookie = self.data / ".erlang.cookie"
        cookie.unlink(missing_ok=True)
        cookie.touch(mode=0o600)  # Erlang refuses a cookie that others can read
        cookie.write_text(self.cookie)

    def _environment(self, home: Path) -> Mapping[str, str]:
        """Everything the scripts read; nothing is inherited, so that no setting of the machine reaches the node."""
        return {
            **self._epmd.env,
            "PATH": os.environ.get("PATH", os.defpath),
            "LANG": "C.UTF-8",
            "HOME": str(self.data),
            **processes.mark(self.data),
            "ERL_CRASH_DUMP": str(self.data / "erl_crash.dump"),
            # The script then becomes the Erlang machine instead of waiting for it: one process, one pid, and SIGTERM to
            # it stops RabbitMQ in order.
            "RUNNING_UNDER_SYSTEMD": "true",
            "RABBITMQ_SCRIPTS_DIR": str(home / "sbin"),
            "RABBITMQ_PLUGINS_DIR": str(home / "plugins"),
            "RABBITMQ_CONF_ENV_FILE": str(self.data / "no-rabbitmq-env.conf"),
            "RABBITMQ_NODENAME": self.name,
            "RABBITMQ_USE_LONGNAME": "true",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(self.dist_port),
            "RABBITMQ_MNESIA_BASE": str(self.data / "mnesia"),
            "RABBITMQ_LOG_BASE": str(self.data / "log"),
            "RABBITMQ_LOGS": str(self._log),
            "RABBITMQ_CONFIG_FILE": str(self.data / "rabbitmq.conf"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(self.data / "advanced.config"),
            "RABBITMQ_GENERATED_CONFIG_DIR": str(self.data / "generated"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.data / "enabled_plugins"),
            "RABBITMQ_PID_FILE": str(self.data / "rabbit.pid"),
            # With its name given here the Erlang machine joins the distribution by itself, and RabbitMQ does not start
            # a second one (0.4 s) just to see that epmd runs.
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": (
                f"{_SERVER_ARGS} -name {self.name}"
                f" -kernel inet_dist_listen_min {self.dist_port} -kernel inet_dist_listen_max {self.dist_port}"
            ),
            "RABBITMQ_CTL_ERL_ARGS": f"-start_epmd false {_ONLY_LOOPBACK}",
        }

    def _end(self, signum: signal.Signals) -> None:
        if self._process is not None:
            processes.end(self._process, signum, STOP_PATIENCE_S)
            self._process = None
        if self._owns_epmd:
            self._epmd.stop()
        processes.end_marked(self.data, _HELPER_PATIENCE_S)

    def _fail(self, what: str) -> None:
        self.kill()
        raise NodeError(f"the RabbitMQ node {self.name} {what}:\n{_tail(self._console)}\n{_tail(self._log)}")


def _tail(path: Path) -> str:
    return path.read_text(errors="replace")[-_TAIL_CHARS:] if path.exists() else f"({path} is missing)"


def _running_test() -> str:
    """Return the name of the test that runs, without its phase."""
    return os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" ")[0]


def _refusals(log_text: str) -> list[str]:
    return [line for line in log_text.splitlines() if _PRECONDITION_FAILED.search(line)]
