"""Dashboard and alerts ask for metrics, labels and codes that there are."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from server.errors import ServerError

ROOT = Path(__file__).resolve().parents[2]
ALERTS = yaml.safe_load((ROOT / "deploy/prometheus/alerts.yml").read_text())
RULES: list[dict[str, Any]] = [rule for group in ALERTS["groups"] for rule in group["rules"]]
DASHBOARD = json.loads((ROOT / "deploy/grafana/millrace.json").read_text())
TARGETS = [target for panel in DASHBOARD["panels"] for target in panel["targets"]]
EXPRESSIONS = [rule["expr"] for rule in RULES] + [target["expr"] for target in TARGETS]
# A test compares this table with what the server exposes: name -> labels, and type.
TABLE = {
    name: (kind, set(re.findall(r"\w+", labels)))
    for name, kind, labels in re.findall(
        r"^\| `(millrace_\w+)` \| (\w+) \|([^|]*)\|",
        (ROOT / "docs/metrics.md").read_text(),
        re.MULTILINE,
    )
}
OF_SCRAPES = {"job", "instance"}


def parts(expression: str) -> list[tuple[str, str]]:
    """Return the metrics of an expression, each with what stands in its braces."""
    return re.findall(r"\b(millrace_\w+)(?:\{([^}]*)\})?", expression)


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_metrics_and_labels_exist(expression: str) -> None:
    known: set[str] = set(OF_SCRAPES)
    for name, braces in parts(expression):
        base = re.sub(r"_(bucket|sum|count)$", "", name)
        kind, labels = TABLE[name] if name in TABLE else TABLE[base]
        assert (kind == "histogram") == (name != base and name not in TABLE), name
        assert set(re.findall(r"(\w+)=", braces)) <= labels | OF_SCRAPES, name
        known |= labels | {"le"}
    for listed in re.findall(r"by \(([^)]*)\)", expression):
        assert set(re.findall(r"\w+", listed)) <= known
    assert expression.count("(") == expression.count(")")
    # Rates of gauges, and counters without a rate, are the usual slips.
    for function, name in re.findall(r"(rate|increase)\((millrace_\w+)", expression):
        base = re.sub(r"_(bucket|sum|count)$", "", name)
        assert (TABLE.get(name) or TABLE[base])[0] != "gauge", (function, name)


def test_codes_exist() -> None:
    def codes(kind: type[ServerError]) -> set[str]:
        return {kind.code}.union(*map(codes, kind.__subclasses__()))

    asked = {
        code
        for expression in EXPRESSIONS
        for listed in re.findall(r'code=~"([^"]*)"', expression)
        for code in listed.split("|")
    }
    assert asked and asked <= codes(ServerError)


def test_every_alert_says_what_is_wrong() -> None:
    names = [rule["alert"] for rule in RULES]
    assert len(set(names)) == len(names) >= 5
    for rule in RULES:
        assert rule["annotations"]["summary"] and rule["labels"]["severity"] and rule["for"]


def test_panels_have_places_of_their_own() -> None:
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in DASHBOARD["panels"]]
    assert len(set(places)) == len(places)
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(places)
    for panel in DASHBOARD["panels"]:
        assert panel["datasource"]["uid"] == "${source}"
        assert panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24


def test_prometheus_reads_the_rules_that_compose_mounts() -> None:
    config = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    volumes = compose["services"]["prometheus"]["volumes"]
    for name in config["rule_files"]:
        assert f"./deploy/prometheus/{name}:/etc/prometheus/{name}:ro" in volumes
    [job] = [each["job_name"] for each in config["scrape_configs"]]
    assert any(f'job="{job}"' in expression for expression in EXPRESSIONS)
