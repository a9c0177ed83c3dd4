"""The pages for people: whole, sent as one file, and nothing from elsewhere."""

import base64
import hashlib
import re
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest

from server.app import create_app
from server.pages import page
from server.settings import Settings

FOLDER = Path("server/pages")
NAMES = sorted(path.stem for path in FOLDER.glob("*.html"))


@pytest.mark.parametrize("name", NAMES)
def test_everything_is_in_the_page(name: str) -> None:
    html = page(name)[0].decode()
    assert "{{" not in html.replace("${", "")  # nothing was left to include
    assert "--accent:" in html and "async function ask(" in html
    assert not re.search(r"(src|href)=.(https?:)?//", html)
    assert not re.search(r"\b(innerHTML|outerHTML|insertAdjacentHTML|eval|document\.write)\b", html)


@pytest.mark.parametrize("name", NAMES)
def test_the_policy_allows_the_pages_own_script_alone(name: str) -> None:
    html, policy = page(name)
    scripts = re.findall(r"<script>(.*?)</script>", html.decode(), re.DOTALL)
    assert len(scripts) == html.count(b"<script") == 1
    digest = base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}';" in policy
    assert policy.startswith("default-src 'none';")
    assert not re.search(rb"\son[a-z]+=", html.split(b"<script>")[0])  # it allows no such handlers


@pytest.mark.parametrize("name", NAMES)
def test_scripts_name_elements_that_exist(name: str) -> None:
    markup, script = page(name)[0].decode().split("<script>")
    there = set(re.findall(r'id="([\w-]+)"', markup))
    parts = {f"{each}-part" for each in ("picture", "text", "tensors")}
    named = set(re.findall(r'byId\("([\w-]+)"\)', script)) | (parts if name == "console" else set())
    assert named and named <= there
    labelled = set(re.findall(r'(?:for|aria-labelledby)="([\w-]+)"', markup))
    assert labelled <= there


def test_pages_ask_for_routes_that_exist(tmp_path: Path) -> None:
    application = create_app(Settings(repository=tmp_path))
    known = {
        re.sub(r"\{[^}]*\}", "*", route.path)
        for route in application.routes
        if hasattr(route, "path")
    }
    sources = "".join(path.read_text("utf-8") for path in FOLDER.glob("*.[hj]*"))
    quoted = re.findall(r"`(/[a-z][^`?]*)", sources) + re.findall(r'"(/[a-z][^"?]*)', sources)
    asked = {re.sub(r"\$\{.*?\}(?=/|$)", "*", path) for path in quoted}
    assert {"/predict", "/models", "/models/*", "/collections/*/map", "/similar"} <= asked
    assert asked <= known


def test_pages_are_packaged() -> None:
    project = tomllib.loads(Path("pyproject.toml").read_text())
    globs = project["tool"]["setuptools"]["package-data"]["server"]
    files = [
        f"pages/{path.name}" for path in FOLDER.iterdir() if path.suffix in (".html", ".css", ".js")
    ]
    assert len(files) >= 5
    assert [name for name in files if not any(fnmatch(name, glob) for glob in globs)] == []
