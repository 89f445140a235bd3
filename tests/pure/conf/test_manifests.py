"""The files for containers: they are well formed, and their numbers and options are those of the program."""

from __future__ import annotations

import json
import re
from collections.abc import Hashable
from typing import Any

import pytest
import yaml

from mxworker.cli.run import run
from mxworker.config.bounds import DEFAULT_CONCURRENCY
from mxworker.config.process import Consumption, Supervision
from mxworker.observer.http.addresses import Address
from mxworker.observer.http.routes import LIVEZ, METRICS, READYZ
from tests.harness.repository import REPOSITORY
from tests.pure.test_image import instructions

CONF = REPOSITORY / "conf"
FILES = sorted(CONF.rglob("*.yml"))
AFTER_THE_DRAIN_S = 15


class Strict(yaml.SafeLoader):
    """A loader that takes no key twice, where YAML itself would take the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [self.construct_object(key) for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]  # type: ignore[no-untyped-call]
        assert len(keys) == len(set(keys)), f"{node.start_mark}: a key twice in {keys}"
        return super().construct_mapping(node, deep)


def documents(name: str) -> dict[str, Any]:
    """Return the documents of a file by their kind."""
    return {each.get("kind", ""): each for each in yaml.load_all((CONF / name).read_text(), Strict)}


DEPLOYMENT = documents("kubernetes/deployment.yml")["Deployment"]
POD = DEPLOYMENT["spec"]["template"]["spec"]
(CONTAINER,) = POD["containers"]
SCALED = documents("kubernetes/scaledobject.yml")["ScaledObject"]["spec"]
COMPOSE = documents("compose.yml")[""]
SHOP = COMPOSE["services"]["shop"]


def options(arguments: list[str]) -> dict[str, Any]:
    """Return the options of `mxworker run` in a command line that begins with `run`."""
    assert arguments[0] == "run"
    return run.make_context("run", arguments[1:]).params


def seconds(duration: str) -> int:
    """Return the number in `30s`."""
    found = re.fullmatch(r"(\d+)s", duration)
    assert found is not None
    return int(found[1])


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(CONF).as_posix())
def test_file_is_well_formed(path: Any) -> None:
    assert all(yaml.load_all(path.read_text(), Strict))


# ---- Kubernetes


def test_pod_has_the_time_of_its_drain_and_fifteen_seconds_more() -> None:
    drain_s = options(CONTAINER["args"])["drain_timeout"]
    assert drain_s == Consumption.__dataclass_fields__["drain_timeout_s"].default
    assert POD["terminationGracePeriodSeconds"] == drain_s + AFTER_THE_DRAIN_S


def test_pod_listens_where_it_is_asked() -> None:
    chosen = options(CONTAINER["args"])
    address = Address.parse(chosen["http"])
    (port,) = CONTAINER["ports"]
    assert (port["name"], port["containerPort"]) == ("http", address.port)
    assert address.port == Address().port
    asked = [CONTAINER[probe]["httpGet"] for probe in ("livenessProbe", "readinessProbe", "startupProbe")]
    assert asked == [{"path": path, "port": "http"} for path in (LIVEZ, READYZ, LIVEZ)]
    (scrape,) = documents("kubernetes/podmonitor.yml")["PodMonitor"]["spec"]["podMetricsEndpoints"]
    assert (scrape["port"], scrape["path"]) == ("http", METRICS)


def test_pod_is_given_the_files_that_it_reads() -> None:
    mounted = {mount["mountPath"] for mount in CONTAINER["volumeMounts"] if mount.get("readOnly")}
    (url_file,) = (variable["value"] for variable in CONTAINER["env"])
    for path in (options(CONTAINER["args"])["http_token_file"], url_file):
        directory, _, key = path.rpartition("/")
        assert directory in mounted
        assert f"--from-literal={key}=" in (CONF / "kubernetes" / "deployment.yml").read_text()


def test_pod_has_no_more_rights_than_it_needs() -> None:
    user, _, group = instructions("USER")[-1].partition(":")
    may = POD["securityContext"]
    assert (may["runAsNonRoot"], may["runAsUser"], may["runAsGroup"]) == (True, int(user), int(group))
    assert CONTAINER["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    written = {mount["mountPath"] for mount in CONTAINER["volumeMounts"] if not mount.get("readOnly")}
    assert set(json.loads(instructions("VOLUME")[-1])) <= written


def test_pod_is_not_given_up_before_a_start_can_be_over() -> None:
    probe = CONTAINER["startupProbe"]
    start_s = (
        Consumption.__dataclass_fields__["connect_wait_s"].default + Supervision(name="", workers=1).boot_timeout_s
    )
    assert probe["periodSeconds"] * probe["failureThreshold"] >= start_s


def test_busy_pods_count_when_pods_are_taken_away() -> None:
    (trigger,) = SCALED["triggers"]
    assert trigger["type"] == "rabbitmq"
    assert (trigger["metadata"]["protocol"], trigger["metadata"]["excludeUnacknowledged"]) == ("http", "false")
    assert SCALED["minReplicaCount"] == 1
    assert SCALED["scaleTargetRef"]["name"] == DEPLOYMENT["metadata"]["name"]
    workers = int(CONTAINER["resources"]["limits"]["cpu"])
    assert int(trigger["metadata"]["value"]) > workers * 2 * DEFAULT_CONCURRENCY  # else one full pod asks for a second


# ---- compose


def test_service_of_the_example_has_the_options_that_it_needs() -> None:
    chosen = options(SHOP["command"])
    assert Address.parse(chosen["http"]).port == Address().port
    assert chosen["http_host"] == ("shop",)
    (secret,) = SHOP["secrets"]
    assert chosen["http_token_file"] == f"/run/secrets/{secret['source']}"
    assert secret["uid"] == instructions("USER")[-1].partition(":")[0]
    assert COMPOSE["secrets"].keys() == {secret["source"]}


def test_service_of_the_example_has_the_time_of_its_drain() -> None:
    drain_s = Consumption.__dataclass_fields__["drain_timeout_s"].default
    assert seconds(SHOP["stop_grace_period"]) == drain_s + AFTER_THE_DRAIN_S


def test_everything_that_is_mounted_or_copied_exists() -> None:
    for service in COMPOSE["services"].values():
        for volume in service.get("volumes", []):
            assert (CONF / volume.partition(":")[0]).exists(), volume
    dockerfile = CONF / "compose" / "Dockerfile"
    copied = re.findall(r"^COPY (\S+) ", dockerfile.read_text(), re.MULTILINE)
    let_through = re.findall(r"^!(.+)", dockerfile.with_name("Dockerfile.dockerignore").read_text(), re.MULTILINE)
    assert sorted(copied) == sorted(let_through)
    assert all((REPOSITORY / source).exists() for source in copied)


def test_nothing_of_the_example_is_open_to_other_machines() -> None:
    ports = [port for service in COMPOSE["services"].values() for port in service.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_prometheus_and_grafana_find_each_other() -> None:
    (scrape,) = documents("prometheus/prometheus.yml")[""]["scrape_configs"]
    assert scrape["static_configs"] == [{"targets": [f"shop:{Address().port}"]}]
    (source,) = documents("grafana/provisioning/datasources/prometheus.yml")[""]["datasources"]
    assert source["url"] == "http://prometheus:9090"
    (provider,) = documents("grafana/provisioning/dashboards/mxworker.yml")[""]["providers"]
    mounted = [volume.split(":")[1] for volume in COMPOSE["services"]["grafana"]["volumes"]]
    assert provider["options"]["path"] in mounted
