"""The programs of Prometheus that judge our metrics and rules. On Debian both are in the package `prometheus`."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from signal import SIGTERM
from types import TracebackType
from typing import Any
from urllib.error import URLError
from urllib.parse import urlencode
from urllib.request import urlopen

import pytest
import yaml

from tests.harness.saving import save_by_rename
from tests.harness.waiting import wait_until
from tests.rabbit import processes
from tests.rabbit.ports import free_port

_PATIENCE_S = 60.0


def program(name: str) -> str:
    """Return the path of `promtool` or `prometheus`; where it is missing, skip the test, or with CI=true fail it."""
    found = shutil.which(name)
    if found is None:
        missing = f"{name} is missing; on Debian or Ubuntu it is in the package prometheus"
        if os.environ.get("CI") == "true":
            pytest.fail(missing)
        pytest.skip(missing)
    return found


def promtool(*arguments: str | Path, text: str = "") -> subprocess.CompletedProcess[str]:
    """Run `promtool` to its end with `text` as its input, and return what came of it."""
    command = [program("promtool"), *arguments]
    return subprocess.run(command, input=text, capture_output=True, text=True, timeout=120, check=False)


def faster(rules: str, times: int) -> str:
    """Return a file of rules in which every duration is so many times shorter: windows, offsets and `for`.

    For tests alone: a rule that looks at 5 minutes then looks at 10 s, if `times` is 30. Thresholds stay.
    """
    seconds = {"m": 60, "h": 3600, "d": 86400}

    def shorter(found: re.Match[str]) -> str:
        return f"{found['before']}{int(found['number']) * seconds[found['unit']] // times}s"

    return re.sub(r"(?P<before>\[|offset |for: )(?P<number>\d+)(?P<unit>[mhd])\b", shorter, rules)


class Prometheus:
    """A Prometheus that scrapes its targets and evaluates its rules every second.

    Each target is a job of its own. They come and go with `watch` and `forget`, while the server runs.
    """

    def __init__(self, directory: Path, rules: str) -> None:
        """Keep everything in `directory`; `rules` is the text of the file of rules."""
        self._directory = directory
        self._targets = directory / "targets"
        self._targets.mkdir()
        (directory / "rules.yml").write_text(rules)
        (directory / "prometheus.yml").write_text(
            yaml.safe_dump(
                {
                    "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
                    "rule_files": ["rules.yml"],
                    "scrape_configs": [{"job_name": "all", "file_sd_configs": [{"files": ["targets/*.json"]}]}],
                }
            )
        )
        self._url = f"http://127.0.0.1:{free_port()}"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Prometheus:
        command = [
            program("prometheus"),
            f"--config.file={self._directory / 'prometheus.yml'}",
            f"--storage.tsdb.path={self._directory / 'data'}",
            f"--web.listen-address={self._url.removeprefix('http://')}",
            "--log.level=warn",
        ]
        self._process = processes.spawn(command, os.environ, self._directory, self._directory / "log")
        wait_until(self._is_ready, _PATIENCE_S, "Prometheus to be ready")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        assert self._process is not None
        processes.end(self._process, SIGTERM, _PATIENCE_S)

    def watch(self, job: str, address: str) -> None:
        """Scrape `address` from now on."""
        save_by_rename(self._targets / f"{job}.json", json.dumps([{"targets": [address], "labels": {"job": job}}]))

    def forget(self, job: str) -> None:
        """Scrape this job no more."""
        (self._targets / f"{job}.json").unlink()

    def ask(self, expression: str, **parameters: str | float) -> list[dict[str, Any]]:
        """Return the result of an expression: now or, with `start`, `end` and `step`, over a range."""
        kind = "query_range" if "start" in parameters else "query"
        answer = self._get(kind, {"query": expression, **parameters})
        result = answer["data"]["result"]
        assert isinstance(result, list), answer
        return result

    def rules(self) -> list[dict[str, Any]]:
        """Return the rules with their health and their alerts."""
        return [rule for group in self._get("rules", {})["data"]["groups"] for rule in group["rules"]]

    def firing(self, job: str, within: str) -> set[str]:
        """Return the names of the alerts on this job that were firing at some time `within` the last such duration."""
        asked = f'count by (alertname) (max_over_time(ALERTS{{alertstate="firing",job="{job}"}}[{within}]))'
        return {series["metric"]["alertname"] for series in self.ask(asked)}

    def texts(self, job: str) -> list[str]:
        """Return the annotations of the alerts on this job that are firing now."""
        alerts = [alert for rule in self.rules() for alert in rule["alerts"] if alert["state"] == "firing"]
        return [text for alert in alerts if alert["labels"]["job"] == job for text in alert["annotations"].values()]

    def samples(self, job: str) -> int:
        """Return how often this job was scraped in the last hour, whether it answered or not."""
        return sum(int(series["value"][1]) for series in self.ask(f'count_over_time(up{{job="{job}"}}[1h])'))

    def _get(self, what: str, parameters: Mapping[str, str | float]) -> dict[str, Any]:
        with urlopen(f"{self._url}/api/v1/{what}?{urlencode(parameters)}", timeout=_PATIENCE_S) as answer:
            found: dict[str, Any] = json.load(answer)
        assert found["status"] == "success", found
        return found

    def _is_ready(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self._directory / "log").read_text()
        try:
            with urlopen(f"{self._url}/-/ready", timeout=_PATIENCE_S) as answer:
                return bool(answer.status == 200)
        except (URLError, ConnectionError):
            return False
