"""What the documents name is there: files, modules to run, targets of make, extras."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = (ROOT, ROOT / "docs", ROOT / "docs/adr", ROOT / "benchmarks/results")
PAGES = sorted(page for folder in FOLDERS for page in folder.glob("*.md"))
OURS = "engine|server|tests|recipes|benchmarks|docs|deploy|demo|scripts|model_repo"

of_every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


@of_every_page
def test_links_lead_to_files(page: Path) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", page.read_text())
    inside = [link.partition("#")[0] for link in links if "://" not in link]
    assert not [link for link in inside if link and not (page.parent / link).exists()]


@of_every_page
def test_headings_that_links_name_exist(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+#[^)\s]+)\)", page.read_text()):
        if "://" in link:
            continue
        target, _, anchor = link.partition("#")
        text = (page.parent / target if target else page).read_text()
        headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
        assert anchor in {anchor_of(heading) for heading in headings}, link


def anchor_of(heading: str) -> str:
    """Return the anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@of_every_page
def test_paths_in_code_exist(page: Path) -> None:
    paths = re.findall(rf"`((?:{OURS})/[\w./-]+)`", page.read_text())
    assert not [path for path in paths if not (ROOT / path).exists()]


@of_every_page
def test_modules_to_run_exist(page: Path) -> None:
    modules = re.findall(rf"python -m ((?:{OURS})[\w.]*)", page.read_text())
    assert not [name for name in modules if not runs(name.rstrip("."))]


def runs(module: str) -> bool:
    """Tell whether `python -m module` finds something of ours, without importing it."""
    path = ROOT.joinpath(*module.split("."))
    return path.with_suffix(".py").is_file() or (path / "__main__.py").is_file()


@of_every_page
def test_targets_of_make_exist(page: Path) -> None:
    rules = set(re.findall(r"^([a-z-]+):(?!=)", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = re.findall(r"(?:`|\$ )(?:[A-Z_]+=\S+ )*make ([a-z][a-z-]*)", page.read_text())
    assert not {*named} - rules


@of_every_page
def test_extras_exist(page: Path) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = re.findall(r"'(?:\.|millrace)\[([a-z,]+)\]'", page.read_text())
    extras = {extra for names in named for extra in names.split(",")}
    assert not extras - set(project["optional-dependencies"])
