"""The control socket of a real master: who may ask, what is answered, and that it cannot hold up supervision."""

from __future__ import annotations

import os
import random
import resource
import select
import shutil
import signal
import socket
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import orjson
import pytest

from mxworker.board.metric_values import ServiceMetrics
from mxworker.control.client import NoAnswer, ask, find
from mxworker.control.metrics_json import metrics_of
from mxworker.control.protocol import (
    ADDRESS_BYTES,
    REQUEST_BYTES,
    Dump,
    Identity,
    LogLevel,
    Metrics,
    Pause,
    Request,
    RequestRefused,
    Resume,
    Scale,
    Status,
    Stop,
    line_of,
)
from mxworker.control.socket_directories import to_look_in
from mxworker.errors import ConfigError
from mxworker.master.control_server import CLIENTS, ControlServer
from mxworker.master.listener import Listener, listen, listen_at, own_directory
from tests.fork.conftest import Service, Start
from tests.harness.waiting import wait_until

SOON_S = 4.0  # a good client among bad ones, each of which has 5 s; the machine may be busy with other tests
HEARTBEAT_S = "10"
OTHER = 65534
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away, and act as another user")


@pytest.fixture
def address() -> Iterator[Path]:
    """An address short enough for a socket, whatever the test is called."""
    directory = Path(tempfile.mkdtemp(prefix="mx-"))
    yield directory / "test.sock"
    shutil.rmtree(directory)


@pytest.fixture
def controlled(start_ready: Start, address: Path) -> Start:
    """Start a service that is ready and listens at `address`."""
    return lambda *arguments: start_ready(*arguments, "--control", str(address))


def answer(address: Path, request: Request, within_s: float = 10.0) -> dict[str, Any]:
    return ask(address, request, time.monotonic() + within_s)


def status(address: Path, within_s: float = 10.0) -> dict[str, Any]:
    found: dict[str, Any] = answer(address, Status(), within_s)["status"]
    return found


def connect(address: Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(10)
    connection.connect(str(address))
    return connection


def all_that_comes(connection: socket.socket) -> bytes:
    """Return what the other side sends until it closes the connection."""
    received = b""
    try:
        while chunk := connection.recv(65536):
            received += chunk
    except ConnectionResetError:
        pass
    return received


# ---- requests


def test_status_tells_of_the_service_and_of_each_worker(controlled: Start, address: Path) -> None:
    service = controlled("holding,healthy")
    service.wait_for("ready", count=2)
    wait_until(lambda: status(address)["workers"][0]["in_flight"] == 1, what="the delivery in flight")
    told = status(address)
    assert (told["name"], told["pid"], told["state"]) == ("test", service.pid, "running")
    assert (told["workers_wanted"], told["workers_ready"]) == (2, 2)
    assert (told["unhealthy_because"], told["unready_because"]) == ("", "")
    assert [(worker["slot"], worker["pid"]) for worker in told["workers"]] == [
        (number, service.worker(number)) for number in (1, 2)
    ]
    assert {worker["consuming"] for worker in told["workers"]} == {"ready"}


def test_status_remembers_how_the_last_worker_of_a_slot_ended(controlled: Start, address: Path) -> None:
    service = controlled("healthy")
    os.kill(service.worker(2), signal.SIGSEGV)
    service.wait_for("ready", slot=2, count=2)
    worker = status(address)["workers"][1]
    assert (worker["restarts"], worker["last_exit"]) == (1, "SIGSEGV (crash)")


def test_metrics_are_those_of_all_workers_and_gauges_of_those_that_live(controlled: Start, address: Path) -> None:
    service = controlled("counts")
    service.wait_for("ready", count=2)

    def metrics() -> ServiceMetrics:
        return metrics_of(answer(address, Metrics())["metrics"])

    wait_until(lambda: [each.in_flight for each in metrics().processes] == [1, 1], what="both deliveries")
    (found,) = metrics().consumers
    assert (found.queue, found.handler, found.outcomes["ack"], found.in_flight) == ("orders", "order", 2003, 2)
    answer(address, Scale(1))
    wait_until(lambda: [each.in_flight for each in metrics().processes] == [1, 0], what="the end of one")
    assert metrics().consumers[0].outcomes["ack"] == 2003
    assert "control socket: Metrics" not in service.stderr(), "looking is no news"


def test_stop_drains(controlled: Start, address: Path) -> None:
    service = controlled("healthy")
    answer(address, Stop())
    assert service.wait() == 0
    assert len(service.events("left")) == 2


def test_dump_asks_every_worker(controlled: Start, address: Path) -> None:
    service = controlled("healthy")
    answer(address, Dump())
    service.wait_for("dump", count=2)


def test_pause_reaches_every_worker_and_those_that_come_later(controlled: Start, address: Path) -> None:
    service = controlled("healthy")
    assert answer(address, Pause("shop.orders"))["paused"] == {"all": False, "queues": ["shop.orders"]}
    service.wait_for("look False shop.orders", count=2)
    os.kill(service.worker(1), signal.SIGKILL)
    service.wait_for("look False shop.orders", slot=1, count=2)
    answer(address, Pause())
    service.wait_for("look True shop.orders", count=2)
    answer(address, Resume("shop.orders"))
    service.wait_for("look True  ", count=2)
    assert answer(address, Resume())["paused"] == {"all": False, "queues": []}
    assert "all queues are paused" not in status(address)["unready_because"]


def test_pause_of_a_queue_beyond_those_that_the_board_can_name_is_taken(controlled: Start, address: Path) -> None:
    controlled("many_queues")
    assert answer(address, Pause("shop.order-99"))["paused"]["queues"] == ["shop.order-99"]


def test_pause_of_a_queue_that_nobody_consumes_is_refused(controlled: Start, address: Path) -> None:
    controlled("healthy")
    for request in (Pause("shop.order"), Resume("shop.order")):
        with pytest.raises(RequestRefused, match=r"no worker consumes the queue 'shop.order'. They consume: shop.ord"):
            answer(address, request)
    assert status(address)["paused"]["queues"] == []


def test_paused_service_is_not_ready(controlled: Start, address: Path) -> None:
    controlled("healthy")
    answer(address, Pause())
    assert status(address)["unready_because"] == "all queues are paused"


def test_log_level_is_that_of_master_and_workers(controlled: Start, address: Path) -> None:
    service = controlled("healthy")
    answer(address, LogLevel("error"))
    service.wait_for("look False  40", count=2)
    assert status(address)["log_level"] == "error"


def test_sigusr2_pauses_and_resumes(controlled: Start, address: Path) -> None:
    service = controlled("healthy")
    service.kill(signal.SIGUSR2)
    service.wait_for("look True", count=2)
    service.kill(signal.SIGUSR2)
    service.wait_for("look False", count=4)


def test_sigusr1_asks_every_worker_for_a_dump(start_ready: Start) -> None:
    service = start_ready("healthy")
    service.kill(signal.SIGUSR1)
    service.wait_for("dump", count=2)


def test_sigusr1_does_not_end_a_worker_that_boots(start: Start, address: Path) -> None:
    """Sent to each process as soon as it is there: its handler can only be installed later."""
    service = start("healthy", "--control", str(address), "--asks-right-after-fork")
    service.wait_for("announce")
    assert len(service.events("boot")) == 2


# ---- the address


def test_socket_is_for_its_user_alone_and_gone_at_the_end(controlled: Start, address: Path) -> None:
    service = controlled("healthy")
    assert stat.S_IMODE(address.lstat().st_mode) == 0o600
    service.kill(signal.SIGTERM)
    assert service.wait() == 0
    assert not address.exists()


def test_no_worker_holds_the_socket(controlled: Start, address: Path) -> None:
    service = controlled("shows_fds")
    with connect(address):
        os.kill(service.worker(1), signal.SIGKILL)  # its successor is forked while a client is connected
        service.wait_for("ready", slot=1, count=2)
    assert len(service.events("fds")) == 3
    assert not [event for event in service.events("fds") if "socket" in event.what]


def test_second_master_is_refused_before_it_starts_anything(controlled: Start, start: Start, address: Path) -> None:
    first = controlled("healthy")
    second = start("healthy", "--control", str(address))
    assert second.process.wait(60) == 2
    assert f"another mxworker (process {first.pid}) already runs under this name" in second.stderr()
    assert second.events() == []
    assert status(address)["pid"] == first.pid


def test_socket_of_a_dead_master_is_replaced(controlled: Start, address: Path) -> None:
    first = controlled("healthy")
    first.kill(signal.SIGKILL)
    first.process.wait()
    first.wait_until_gone()
    assert address.exists()
    second = controlled("healthy")
    assert status(address)["pid"] == second.pid


def test_lock_of_a_living_master_counts_even_when_its_socket_was_removed(address: Path) -> None:
    listener = Listener(address)
    address.unlink()
    with pytest.raises(ConfigError, match="already runs under this name"):
        Listener(address)
    listener.close()
    Listener(address).close()


def test_file_that_is_no_socket_is_left_alone(address: Path) -> None:
    address.write_text("precious")
    with pytest.raises(ConfigError, match="is no socket"):
        Listener(address)
    assert address.read_text() == "precious"
    address.unlink()
    Listener(address).close()


def test_lock_that_is_a_link_is_not_followed(address: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    address.with_name("test.sock.lock").symlink_to(target)
    with pytest.raises(OSError, match="symbolic links"):
        Listener(address)
    assert not target.exists()


def test_address_that_is_too_long_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="at most 107 bytes"):
        listen_at(tmp_path / ("x" * ADDRESS_BYTES))


def test_asked_place_that_cannot_be_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no control socket can be made at"):
        listen_at(tmp_path / "missing" / "x.sock")


def test_usual_place_is_made_in_the_first_directory_that_works(address: Path) -> None:
    identity = Identity("app:handlers")
    listener = listen(identity, [Path("/proc/none"), address.parent / "own"])
    assert listener is not None
    assert listener.path == address.parent / "own" / identity.file_name
    listener.close()


@pytest.mark.parametrize("homes", [("", "", ""), ("", "/srv/shop", "/srv/shop")], ids=["given", "derived"])
def test_names_that_look_alike_are_those_of_several_services(address: Path, homes: tuple[str, ...]) -> None:
    place = address.parent / "own"
    names = ("shop-eu", "shop/eu", "shop eu")
    listeners = [listen(Identity(name, home, home), [place]) for name, home in zip(names, homes, strict=True)]
    assert [listener and listener.path for listener in listeners] == [find([place], name) for name in names]
    assert len({listener and listener.path for listener in listeners}) == 3
    for listener, name in zip(listeners, names, strict=True):
        assert listener is not None
        listener.close()
        with pytest.raises(NoAnswer, match=f"no service called '{name}' runs here"):
            find([place], name)


@needs_root
def test_runtime_directory_of_another_user_is_passed_over(address: Path) -> None:
    given_away = address.parent / "given away"
    given_away.mkdir()
    os.chown(given_away, 65534, 65534)
    listener = listen(Identity("app"), [given_away / "mxworker", address.parent / "own"])
    assert listener is not None
    assert listener.path == address.parent / "own" / "app.sock"
    listener.close()


def test_service_without_any_place_is_warned_of_once(address: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert listen(Identity("app"), [address / "missing", Path("/proc/none")]) is None
    (warning,) = caplog.messages
    assert "no control socket: nothing can be written to" in warning


def test_place_that_others_laid_hands_on_is_passed_over_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    theirs.mkdir()
    theirs.chmod(0o777)
    listener = listen(Identity("app"), [theirs, ours])
    assert listener is not None
    assert listener.path == ours / "app.sock"
    assert "nobody else can write to" in caplog.text
    listener.close()


def test_directory_is_made_for_us_alone(tmp_path: Path) -> None:
    own_directory(tmp_path / "own")
    own_directory(tmp_path / "own")
    assert stat.S_IMODE((tmp_path / "own").stat().st_mode) == 0o700


def test_directory_that_others_can_write_to_is_refused(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    link = tmp_path / "link"
    link.symlink_to(tmp_path)
    plain = tmp_path / "plain"
    plain.touch()
    for wrong in (shared, link, plain):
        with pytest.raises(ConfigError, match="nobody else can write to"):
            own_directory(wrong)


@pytest.mark.parametrize("mode", [0o777, 0o1777])
def test_asked_place_that_others_can_write_to_is_refused(address: Path, mode: int) -> None:
    address.parent.chmod(mode)
    with pytest.raises(
        ConfigError, match=f"everybody on this machine may write to '{address.parent}', and so replace the"
    ):
        listen_at(address)
    assert list(address.parent.iterdir()) == []


@pytest.fixture
def for_all(address: Path) -> Path:
    """A directory in which everybody may make names, as /tmp."""
    address.parent.chmod(0o1777)
    return address.parent


@needs_root
@pytest.mark.parametrize("what", ["directory", "file", "link"])
def test_name_that_another_user_has_taken_is_replaced_by_one_that_is_found(
    what: str, for_all: Path, caplog: pytest.LogCaptureFixture
) -> None:
    place = for_all / "mxworker-0"
    match what:
        case "directory":
            place.mkdir()
        case "file":
            place.touch()
        case "link":
            place.symlink_to(for_all)
    os.chown(place, OTHER, OTHER, follow_symlinks=False)
    listener = listen(Identity("app"), [place])
    assert listener is not None
    spare = listener.path.parent
    assert (spare.parent, stat.S_IMODE(spare.stat().st_mode)) == (for_all, 0o700)
    assert f"the control socket is in {spare} instead" in caplog.text
    assert find(list(to_look_in([place])), "app") == listener.path
    assert find(list(to_look_in([place])), None) == listener.path
    listener.close()
    again = listen(Identity("app"), [place])
    assert again is not None
    assert again.path == listener.path, "a service has the same place at each start, and no directory for each"
    again.close()


@needs_root
def test_spare_that_another_user_has_made_is_not_looked_into(for_all: Path) -> None:
    place, theirs = for_all / "mxworker-0", for_all / "mxworker-0-aaaa"
    for path in (place, theirs):
        path.mkdir(0o700)
        os.chown(path, OTHER, OTHER)
    assert list(to_look_in([place])) == []
    listener = listen(Identity("app"), [place])
    assert listener is not None
    assert listener.path.parent not in (place, theirs)
    listener.close()


def test_names_are_not_looked_for_where_others_cannot_make_them(address: Path) -> None:
    (address.parent / "mxworker-0-aaaa").mkdir(0o700)
    assert list(to_look_in([address.parent / "mxworker-0"])) == [address.parent / "mxworker-0"]


@contextmanager
def answered_by(uid: int, address: Path) -> Iterator[None]:
    """Have a process of a user answer at an address whatever it is asked."""
    with socket.socket(socket.AF_UNIX) as listening:
        ready, told = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                os.setuid(uid)  # before it listens: that is when the kernel notes whose the socket is
                listening.bind(os.fspath(address))
                listening.listen()
                os.write(told, b"1")
                connection, _ = listening.accept()
                connection.recv(4096)
                connection.sendall(b'{"ok": true, "status": {}}\n')
            finally:
                os._exit(0)
        os.close(told)
        assert os.read(ready, 1) == b"1"
        os.close(ready)
        try:
            yield
        finally:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


@needs_root
@pytest.mark.parametrize(("mode", "owner"), [(0o777, 0), (0o1777, 0), (0o700, OTHER)])
def test_root_does_not_believe_whoever_listens(for_all: Path, mode: int, owner: int) -> None:
    """In a directory that anybody could have made, or made a socket in."""
    place = for_all / "place"
    place.mkdir()
    place.chmod(mode)
    os.chown(place, owner, owner)
    with answered_by(OTHER, place / "app.sock"), pytest.raises(NoAnswer, match="belongs to a process of another user"):
        ask(place / "app.sock", Status(), time.monotonic() + 30)


@needs_root
def test_root_believes_the_service_of_a_user_in_a_directory_that_it_gave_them(address: Path) -> None:
    """As /run/mxworker, which systemd makes for a unit with a user of its own."""
    address.parent.chmod(0o755)
    place = address.parent / "mxworker"
    place.mkdir()
    os.chown(place, OTHER, OTHER)
    with answered_by(OTHER, place / "app.sock"):
        assert ask(place / "app.sock", Status(), time.monotonic() + 30) == {"ok": True, "status": {}}


@needs_root
def test_other_users_are_turned_away(controlled: Start, address: Path) -> None:
    controlled("healthy")
    address.parent.chmod(0o755)
    address.chmod(0o666)
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setuid(65534)
            with connect(address) as connection:
                os.write(writer, all_that_comes(connection))
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    os.close(writer)
    told = os.read(reader, 65536)
    os.close(reader)
    assert b"its own user and from root alone" in told


# ---- a server without a master, turned by hand


class Turned:
    """A server whose turns the test takes."""

    def __init__(self, address: Path, answer: Callable[[Request, int], dict[str, Any]]) -> None:
        self.listener = Listener(address)
        self._poll = select.poll()
        self._server = ControlServer(self.listener, self._poll, answer)
        self.now_ns = time.monotonic_ns()

    def turn(self) -> None:
        self._server.serve(self._poll.poll(0), self.now_ns)

    @property
    def sleeps_for_ns(self) -> int | None:
        until_ns = self._server.next_wakeup(self.now_ns)
        return None if until_ns is None else until_ns - self.now_ns


@pytest.fixture
def turned(address: Path) -> Iterator[Callable[[Callable[[Request, int], dict[str, Any]]], Turned]]:
    made: list[Turned] = []

    def make(answer: Callable[[Request, int], dict[str, Any]]) -> Turned:
        made.append(Turned(address, answer))
        return made[-1]

    yield make
    for server in made:
        server.listener.close()


def test_one_request_is_dealt_with_a_turn_and_then_the_next_client_has_its_own(
    turned: Callable[..., Turned], address: Path
) -> None:
    answered: list[Request] = []
    server = turned(lambda request, now_ns: answered.append(request) or {})
    greedy, modest = connect(address), connect(address)
    greedy.sendall(line_of(Status()) * 20)
    modest.sendall(line_of(Dump()))
    server.turn()  # both come in
    for turns in range(1, 5):
        server.turn()
        assert len(answered) == turns
        assert server.sleeps_for_ns == 0
    assert answered[:3] == [Status(), Dump(), Status()]
    greedy.close()
    modest.close()


def test_fault_of_ours_is_told_to_the_client_and_to_the_log_alone(
    turned: Callable[..., Turned], address: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(request: Request, now_ns: int) -> dict[str, Any]:
        raise ZeroDivisionError

    server = turned(fail)
    with connect(address) as connection:
        for _ in range(50):
            connection.sendall(line_of(Status()))
            server.turn()
            server.turn()
            assert b"its log says how" in connection.recv(65536)
    assert len(caplog.records) == 10, "the log is bounded"


def test_server_without_descriptors_left_waits_a_second(turned: Callable[..., Turned], address: Path) -> None:
    server = turned(lambda request, now_ns: {})
    with connect(address) as connection:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (connection.fileno(), hard))
        try:
            server.turn()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert server.sleeps_for_ns == 1_000_000_000
        connection.sendall(line_of(Status()))
        for _ in range(4):
            server.now_ns += 500_000_000
            server.turn()
        assert connection.recv(100) == b'{"ok":true}\n'


# ---- clients that are slow, many, or mad


def test_request_may_come_in_pieces_and_several_on_one_connection(controlled: Start, address: Path) -> None:
    controlled("healthy")
    with connect(address) as connection:
        for byte in line_of(Status()):
            connection.send(bytes([byte]))
        connection.send(line_of(Status()) * 3 + b"nonsense\n")
        connection.shutdown(socket.SHUT_WR)
        lines = all_that_comes(connection).splitlines()
    assert [orjson.loads(line)["ok"] for line in lines] == [True, True, True, True, False]


@pytest.mark.parametrize("size", [REQUEST_BYTES, REQUEST_BYTES + 1, 100_000])
def test_request_that_is_too_long_is_refused_and_ends_the_connection(
    controlled: Start, address: Path, size: int
) -> None:
    controlled("healthy")
    with connect(address) as connection:
        try:
            connection.sendall(b"x" * size + b"\n")
        except ConnectionError:
            pass
        assert b"at most 4096 bytes" in all_that_comes(connection)


def test_dribbling_does_not_extend_the_time_of_a_client(controlled: Start, address: Path) -> None:
    controlled("healthy")
    began_at = time.monotonic()
    with connect(address) as connection:
        while not select.select([connection], [], [], 0.1)[0]:
            assert time.monotonic() - began_at < 5 + 15
            with suppress(BrokenPipeError):
                connection.send(b" ")
        assert all_that_comes(connection) == b""
    assert time.monotonic() - began_at > 4.9


def test_client_that_does_not_read_its_answer_is_dropped(controlled: Start, address: Path) -> None:
    service = controlled("healthy", "--workers", "60")
    with connect(address) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        connection.settimeout(60)
        began_at = time.monotonic()
        with pytest.raises(ConnectionError):  # its requests are read only as its answers are
            connection.sendall(line_of(Status()) * 100_000)
    assert time.monotonic() - began_at < 30
    assert "request failed" not in service.stderr()


def test_one_client_more_than_there_are_places_is_told_so(controlled: Start, address: Path) -> None:
    controlled("healthy")
    places = [connect(address) for _ in range(CLIENTS)]
    for connection in places:
        connection.sendall(b"{")
    with connect(address) as connection:
        assert b"busy" in all_that_comes(connection)
    for connection in places:
        connection.close()


def test_thousand_dribblers_and_a_good_client(
    controlled: Start, address: Path, scale: Callable[[int, int], int], rng: random.Random
) -> None:
    service = controlled("healthy", "--heartbeat", HEARTBEAT_S)
    dribblers: list[socket.socket] = []
    waited_s = []
    for _ in range(scale(100, 1000)):
        connection = socket.socket(socket.AF_UNIX)
        connection.setblocking(False)
        try:
            connection.connect(str(address))
        except BlockingIOError:
            pass  # the backlog is full of others of its kind
        dribblers.append(connection)
        for one in rng.sample(dribblers, min(10, len(dribblers))):
            try:
                one.send(b" ")
            except OSError:
                pass
        if len(dribblers) % 20 == 0:
            began_at = time.monotonic()
            status(address, within_s=5)
            waited_s.append(time.monotonic() - began_at)
    for connection in dribblers:
        connection.close()
    assert max(waited_s) < SOON_S
    is_unharmed(service)


def test_fuzzed_requests_do_not_disturb_supervision(
    controlled: Start, address: Path, scale: Callable[[int, int], int], rng: random.Random
) -> None:
    service = controlled("healthy", "--heartbeat", HEARTBEAT_S)
    left = scale(10_000, 100_000)
    waited_s = []
    while left > 0:
        requests = [fuzzed(rng) for _ in range(rng.randint(1, 500))]
        with connect(address) as connection:
            stays = rng.random() < 0.9
            sent = requests if stays else requests[: rng.randrange(len(requests))]
            answers = flood(connection, b"".join(sent), stays, rng)
        if stays:
            assert len(answers) == len(requests)
            left -= len(requests)
        began_at = time.monotonic()
        status(address, within_s=5)
        waited_s.append(time.monotonic() - began_at)
    assert max(waited_s) < SOON_S
    is_unharmed(service)


def fuzzed(rng: random.Random) -> bytes:
    """Return a line that is no request, though often nearly one; none of them may stop the service or scale it."""
    line = bytearray(rng.choice([line_of(Status()), line_of(Pause("q")), line_of(Dump()), b'{"do":"scale","workers":']))
    match rng.randrange(4):
        case 0:
            line[rng.randrange(len(line))] = rng.randrange(256)
        case 1:
            line = line[: rng.randrange(len(line))]
        case 2:
            line = bytearray(rng.randbytes(rng.randrange(200)))
        case _:
            line = bytearray(
                b'{"do":"status","' + rng.randbytes(5).hex().encode() + b'":[' + b"[" * rng.randrange(2000)
            )
    return bytes(line).replace(b"\n", b"") + b"\n"


def flood(connection: socket.socket, requests: bytes, stays: bool, rng: random.Random) -> list[bytes]:
    """Send all, in random pieces, and return the answers that came; who does not stay goes when all is sent."""
    connection.setblocking(False)
    received = b""
    while requests or stays:
        readable, writable, _ = select.select([connection], [connection] if requests else [], [], 10)
        assert readable or writable, "the service neither answers nor takes more"
        if readable:
            chunk = connection.recv(65536)
            received += chunk
            if not chunk:
                break
        if writable:
            try:
                requests = requests[connection.send(requests[: rng.randint(1, 5000)]) :]
            except BlockingIOError:
                continue
            if not requests:
                connection.shutdown(socket.SHUT_WR)
    return received.splitlines()


def is_unharmed(service: Service) -> None:
    """See that no worker was replaced or judged, and that a stop works."""
    assert len(service.events("boot")) == 2
    assert "request failed" not in service.stderr()
    assert "overslept" not in service.stderr()
    assert "ABORTING" not in service.stderr()
    service.kill(signal.SIGTERM)
    assert service.wait() == 0
    assert service.survivors() == []


def test_ask_says_that_nobody_is_there(address: Path) -> None:
    with pytest.raises(NoAnswer, match="no service answers at"):
        status(address, within_s=0.2)


def test_ask_gives_up_on_a_service_that_does_not_answer(address: Path) -> None:
    with socket.socket(socket.AF_UNIX) as mute:
        mute.bind(str(address))
        mute.listen()
        with pytest.raises(NoAnswer, match="gave no answer in time"):
            status(address, within_s=0.2)
