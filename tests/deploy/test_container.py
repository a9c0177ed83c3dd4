"""What the image and the compose file say, against the server's settings."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from server.index.postgres.options import read_url
from server.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICE = COMPOSE["services"]["millrace"]
PROMETHEUS = yaml.safe_load((ROOT / "deploy" / "prometheus" / "prometheus.yml").read_text())


def test_variables_are_settings():
    variables = set(re.findall(r"\bMILLRACE_([A-Z_]+)=", DOCKERFILE))
    variables |= {name.removeprefix("MILLRACE_") for name in SERVICE["environment"]}
    assert {name.lower() for name in variables} <= set(Settings.model_fields)
    assert {"REPOSITORY", "HOST", "PORT", "CACHE_DIR", "ADMIN_TOKEN"} <= variables


def test_what_is_copied_is_in_the_context():
    allowed = {
        line[1:]
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line.startswith("!")
    }
    copied: set[str] = set()
    for line in re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, re.MULTILINE):
        copied |= set(line.split()[:-1])
    assert copied == allowed
    assert all((ROOT / name).exists() for name in copied)


def test_the_image_is_not_run_by_root():
    last = DOCKERFILE.rpartition("\nFROM ")[2]
    assert re.search(r"^USER 10001:10001$", last, re.MULTILINE)
    assert last.index("USER") > last.index("RUN")


def test_the_health_check_asks_a_route_that_exists():
    assert "/v2/health/ready" in DOCKERFILE.partition("HEALTHCHECK")[2]


def test_compose_runs_it_read_only_with_time_to_drain():
    assert SERVICE["read_only"] is True
    assert SERVICE["cap_drop"] == ["ALL"]
    assert SERVICE["tmpfs"] == ["/tmp"]
    kept = {volume.split(":")[1] for volume in SERVICE["volumes"]}
    assert {"/var/cache/millrace", "/var/lib/millrace"} <= kept
    drain = float(SERVICE["environment"]["MILLRACE_DRAIN_TIMEOUT_S"])
    assert float(SERVICE["stop_grace_period"].removesuffix("s")) > drain + 5


def test_prometheus_scrapes_the_service():
    [job] = PROMETHEUS["scrape_configs"]
    assert job["metrics_path"] == "/metrics"
    assert job["static_configs"] == [{"targets": ["millrace:8000"]}]
    assert "millrace" in COMPOSE["services"]
    mounts = COMPOSE["services"]["prometheus"]["volumes"]
    assert mounts and all((ROOT / mount.partition(":")[0]).is_file() for mount in mounts)


def test_the_database_comes_on_request_and_keeps_what_it_has():
    database = COMPOSE["services"]["postgres"]
    assert database["profiles"] == ["postgres"] and "pgvector" in database["image"]
    volumes = {each.partition(":")[0] for each in database["volumes"] + SERVICE["volumes"]}
    assert set(COMPOSE["volumes"]) <= volumes
    assert read_url("postgresql://millrace:x@postgres/millrace").place.endswith("at postgres")
    assert SERVICE["environment"]["MILLRACE_COLLECTIONS"].startswith("${MILLRACE_COLLECTIONS:-/")
