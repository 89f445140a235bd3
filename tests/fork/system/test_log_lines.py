"""Lines of many processes into one pipe: each is whole, and what its reader is too slow for is dropped and counted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.harness.waiting import wait_until

PROCESSES = 8
PATIENCE_S = 120.0

WRITER = """
import logging, random, sys, time
from pathlib import Path
from mxworker.system.log import lines_dropped, set_up, tell_lost_lines

set_up("info", "json")
name, lines, folder = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
rng = random.Random(name)
log = logging.getLogger("writer")
for number in range(lines):
    if number == lines // 2:
        (folder / f"half-{name}").touch()
        while not (folder / "go-on").exists():
            time.sleep(0.01)
    log.info("%s", chr(rng.choice([65, 10, 233, 0x1f600])) * rng.randrange(900, 2500), extra={"n": number})
(folder / f"all-{name}").touch()
while not (folder / "is-read").exists():
    time.sleep(0.01)
while logging.lastResort._lost_lines:
    tell_lost_lines()
    time.sleep(0.01)
print(lines_dropped())
"""

READER = """
import json, sys
from collections import Counter
from pathlib import Path

seen, lost, sizes = Counter(), Counter(), [1 << 20, 0]
for line in sys.stdin.buffer:
    record = json.loads(line)
    if record.get("event") == "log_lines_lost":
        lost[record["pid"]] += record["lines"]
    else:
        seen[record["pid"]] += 1
        sizes = [min(sizes[0], len(line)), max(sizes[1], len(line))]
print(json.dumps({"seen": seen, "lost": lost, "sizes": sizes}))
"""


def test_every_line_is_whole_and_those_that_a_stopped_reader_misses_are_counted(
    tmp_path: Path, scale: Callable[[int, int], int]
) -> None:
    lines = scale(1000, 50_000)
    reading, writing = os.pipe()
    reader = subprocess.Popen([sys.executable, "-c", READER], stdin=reading, stdout=subprocess.PIPE)
    os.close(reading)
    arguments = [sys.executable, "-c", WRITER]
    writers = [
        subprocess.Popen([*arguments, str(each), str(lines), str(tmp_path)], stderr=writing, stdout=subprocess.PIPE)
        for each in range(PROCESSES)
    ]
    os.close(writing)
    try:
        wait_until(lambda: len([*tmp_path.glob("half-*")]) == PROCESSES, PATIENCE_S * 5, "the first half")
        reader.send_signal(signal.SIGSTOP)
        (tmp_path / "go-on").touch()
        wait_until(
            lambda: len([*tmp_path.glob("all-*")]) == PROCESSES, PATIENCE_S * 5, "all lines, with nobody reading"
        )
        reader.send_signal(signal.SIGCONT)
        (tmp_path / "is-read").touch()
        dropped = {str(writer.pid): int(writer.communicate(timeout=PATIENCE_S)[0]) for writer in writers}
        told = json.loads(reader.communicate(timeout=PATIENCE_S)[0])
    finally:
        for process in (reader, *writers):
            process.kill()
            process.wait()
    assert sum(dropped.values()) > 0
    assert {pid: told["lost"].get(pid, 0) for pid in dropped} == dropped
    assert {pid: told["seen"][pid] + dropped[pid] for pid in dropped} == dict.fromkeys(dropped, lines)
    least, most = told["sizes"]
    assert 1000 <= least < 4000 < most <= 4096
