"""What `benchmarks.similarity.postgres` measured, as targets and as a table to read."""

from __future__ import annotations

from typing import Any

import psycopg

from benchmarks.common.results import Target, at_least, markdown_table, targets_table


def targets_of(kind: str, found: dict[str, Any]) -> list[Target]:
    targets = [at_least(f"{kind}: recall@10", found["batches"]["ours"]["recall"], 0.95)]
    for name, each in found["filters"].items():
        targets.append(at_least(f"{kind}, {name}: recall@10", each["ours"]["recall"], 0.95))
        full = 1.0 - each["short"]["ours"]
        targets.append(at_least(f"{kind}, {name}: always min(k, matches)", full, 1.0))
    for what in ("one", "batches"):
        ratio = found[what]["ours"]["per_second"] / found[what]["by hand"]["per_second"]
        targets.append(at_least(f"{kind}, {what}: queries/s of those by hand", ratio, 0.9))
    return targets


def report(
    facts: dict[str, object], count: int, dim: int, k: int, batch: int, figures: dict[str, Any]
) -> str:
    rows: list[list[object]] = []
    for kind, found in figures.items():
        asked = {"one query a call": found["one"], f"batches of {batch}": found["batches"]}
        asked |= {f"filter passes {each['passes']:.1%}": each for each in found["filters"].values()}
        for what, each in asked.items():
            short = each.get("short", {"by hand": 0})["by hand"]
            rows.append(
                [
                    kind,
                    what,
                    f"{each['ours']['recall']:.3f}",
                    f"{each['ours']['per_second']:.0f}",
                    f"{each['by hand']['recall']:.3f}",
                    f"{each['by hand']['per_second']:.0f}",
                    short,
                ]
            )
        writing = found["while_writing"]
        label = f"beside {writing['adds_and_deletes_per_second']:.0f} adds and deletes a second"
        rows.append([kind, label, f"{writing['recall']:.3f}", f"{writing['per_second']:.0f}"])
        rows[-1] += ["", "", ""]
    targets = [t for kind, found in figures.items() for t in targets_of(kind, found)]
    states = "".join(
        f"- {kind}: {found['kind']}: {found['reason']}. Loaded in {found['load_s']} s, indexed and "
        f"judged in {found['index_s']} s, {found['bytes'] / 2**20:.0f} MiB.\n"
        for kind, found in figures.items()
    )
    header = ["data", "asked", "recall@10", "q/s", "by hand: recall@10", "q/s", "short answers"]
    return (
        f"# Collections in PostgreSQL\n\n{count:,} vectors of {dim} dimensions, k = {k}; "
        f"{facts['postgres']}, pgvector {facts['pgvector']}, psycopg {psycopg.__version__}, "
        f"{facts.get('cpu', '')}. `by hand`: the statement of pgvector's manual on the same table "
        "and index at the same parameters, vectors as text, batches in a pipeline.\n\n"
        f"{states}\n{markdown_table(header, rows)}\n{targets_table(targets)}"
    )


def versions(url: str) -> dict[str, str]:
    with psycopg.connect(url) as connection:
        row = connection.execute(
            "SELECT split_part(version(), ' on ', 1),"
            " (SELECT extversion FROM pg_extension WHERE extname = 'vector')"
        ).fetchone()
    assert row is not None
    return {"postgres": str(row[0]), "pgvector": str(row[1])}
