import json
from pathlib import Path

import pytest

from benchmarks.common import results

FACTS = {"cores": 2, "cpu": "Some CPU", "commit": "abc1234"}


def test_a_page_ends_in_what_made_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "RESULTS", tmp_path / "results")
    reached, missed = results.at_most("errors", 0, 0), results.at_least("rate", 0.5, 0.9)
    text = "# Rates\n\n" + results.targets_table([reached, missed])
    path = results.write_result("rates", FACTS, [reached, missed], {"rate": 0.5}, text)
    page = path.with_suffix(".md").read_text()
    assert page.startswith("# Rates\n")
    assert "| rate | >= 0.9 | 0.5 | **no** |" in page
    assert page.endswith("` at commit abc1234, on 2 cores (Some CPU).\n")
    document = json.loads(path.read_text())
    assert document["machine"] == FACTS
    assert [target["reached"] for target in document["targets"]] == [True, False]


def test_the_command_of_a_page_can_be_run() -> None:
    line = results.origin(FACTS, "benchmarks.swap.run")
    assert line == (
        "Made by `python -m benchmarks.swap.run` at commit abc1234, on 2 cores (Some CPU).\n"
    )


@pytest.mark.parametrize("page", sorted(results.RESULTS.glob("*.md")), ids=lambda page: page.stem)
def test_every_page_names_a_command_that_exists(page: Path) -> None:
    root = results.RESULTS.parents[1]
    makefile = (root / "Makefile").read_text()
    text = page.read_text()
    made = [part.split("`")[0].split()[0] for part in text.split("`python -m ")[1:]]
    targets = [part.split("`")[0] for part in text.split("make ")[1:]]
    known = [
        *(name for name in made if _is_module(root, name)),
        *(name for name in targets if f"\n{name}:" in makefile),
    ]
    assert known, f"{page.name} does not say how it is made"


def _is_module(root: Path, name: str) -> bool:
    path = root.joinpath(*name.split("."))
    return path.with_suffix(".py").is_file() or (path / "__main__.py").is_file()
