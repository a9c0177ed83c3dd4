"""The console and the API page in a real browser."""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from PIL import Image

from server.settings import Settings
from tests.e2e.chromium import NoBrowser, Page, browser, opened
from tests.server.running import RunningServer, running_server
from tests.server.zoo import add_broken, add_digits, add_echo

CHROMIUM = browser()
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium is installed (chromium, google-chrome)"
)
HOSTILE = "<img src=x onerror=document.title='run'>"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    root = tmp_path_factory.mktemp("console") / "models"
    for version in ("1", "2"):
        folder = add_digits(root, version)
        (folder / "labels.txt").write_text("\n".join(f"{HOSTILE} {n}" for n in range(10)))
    add_echo(root, "echo")
    add_broken(root)
    settings = Settings(
        repository=root, isolate=False, watch=False, settle_s=0.0, admin_token="t0ken"
    )
    with running_server(settings) as running:
        yield running


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    assert CHROMIUM is not None
    with ExitStack() as stack:
        try:
            page = stack.enter_context(opened(CHROMIUM, tmp_path_factory.mktemp("browser")))
        except NoBrowser as error:
            pytest.skip(str(error))
        yield page


@pytest.fixture
def page(tab: Page, server: RunningServer) -> Page:
    """The console, with its models listed."""
    tab.faults.clear()
    tab.size(1200, 900)
    tab.open(server.url)
    tab.until("document.querySelectorAll('#models tbody tr').length === 4")
    return tab


def choose(page: Page, select: str, value: str) -> None:
    page.evaluate(
        f"{{ const field = document.querySelector({json.dumps(select)});"
        f"field.value = {json.dumps(value)}; field.dispatchEvent(new Event('change')); }}"
    )


def press(page: Page, title: str) -> None:
    button = f"document.querySelector({json.dumps(f'button[title={title!r}]')})"
    page.until(f"{button} && !{button}.disabled")
    page.evaluate(f"{button}.click()")


def test_models_and_their_states(page: Page) -> None:
    page.until("document.querySelector('#about').textContent.endsWith(', ready')")
    rows = page.evaluate(
        "[...document.querySelectorAll('#models tbody tr')].map((row) => row.innerText)"
    )
    assert any("broken" in row and "FAILED" in row and "not an ONNX file" in row for row in rows)
    assert any("digits" in row and "2 ✓" in row and "READY" in row for row in rows)
    assert page.faults == []


def test_a_picture_is_classified_and_labels_stay_text(page: Page, tmp_path: Path) -> None:
    picture = tmp_path / "digit.png"
    Image.new("L", (28, 28), 30).save(picture)
    choose(page, "#model", "digits")
    page.choose_file("#file", picture)
    page.evaluate("document.querySelector('#send').click()")
    page.until("document.querySelector('.bars') !== null")
    assert page.evaluate("document.querySelectorAll('.bars .bar').length") == 5
    assert HOSTILE in page.evaluate("document.querySelector('.bars').innerText")
    assert page.evaluate("document.querySelectorAll('#answer img').length") == 0
    assert "compute" in page.evaluate("document.querySelector('#took').textContent")
    assert page.evaluate("document.title") == "Millrace"
    assert page.faults == []


def test_tensors_and_what_is_wrong_with_them(page: Page) -> None:
    choose(page, "#model", "echo")
    page.until("document.querySelector('#tensors').value.includes('x')")
    for text, told in (
        ('{"x": [1.5, 2.5]}', "2.5"),
        ("{", "not JSON"),
        ('{"y": [1]}', "missing: x"),
    ):
        page.evaluate(f"document.querySelector('#tensors').value = {json.dumps(text)}")
        page.evaluate("document.querySelector('#send').click()")
        page.until(
            f"document.querySelector('#answer').innerText.includes({json.dumps(told)})"
            " && !document.querySelector('#send').disabled"
        )
    choose(page, "#what", "picture")
    assert page.evaluate("document.querySelector('#answer').innerText") == ""
    assert page.faults == []


def test_a_version_is_moved_with_the_token_only(page: Page, server: RunningServer) -> None:
    press(page, "Load digits 1")
    page.until("!document.querySelector('#token-row').hidden")
    assert "admin token" in page.evaluate("document.querySelector('#done').textContent")
    page.evaluate("document.querySelector('#token').value = 't0ken'")
    models = server.app.runtime.handlers.models
    for title, serves in (("Load", "2"), ("Promote", "1"), ("Roll back", "2"), ("Unload", "2")):
        press(page, f"{title} digits 1")
        done = json.dumps(f"{title} digits 1: done.")
        page.until(f"document.querySelector('#done').textContent === {done}")
        assert models.status("digits")[0].default == serves
    assert page.faults == []


def test_the_keyboard_keeps_its_place_when_the_table_is_drawn_anew(page: Page) -> None:
    page.evaluate("document.querySelector('#models').dataset.old = ''")
    page.evaluate("document.querySelector('#models table').dataset.old = 'yes'")
    page.evaluate("document.querySelector(\"button[title='Load broken 1']\").focus()")
    page.until("!document.querySelector('#models table').dataset.old")
    assert page.evaluate("document.activeElement.title") == "Load broken 1"
    page.key("Tab", 9)
    assert page.evaluate("document.activeElement.title") != "Load broken 1"


def test_a_narrow_window_needs_no_scrolling_sideways(page: Page, server: RunningServer) -> None:
    page.size(360, 800)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.open(f"{server.url}/docs")
    page.until("document.querySelectorAll('#operations details').length > 30")
    page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true })")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert page.faults == []


def test_the_api_page_shows_and_filters_operations(page: Page, server: RunningServer) -> None:
    page.open(f"{server.url}/docs#post_predict")
    text = page.until("document.querySelector('#post_predict')?.open && document.body.innerText")
    assert "application/json" in text and '"inputs"' in text and "429 " in text
    page.evaluate(
        "{ const field = document.querySelector('#filter'); field.value = '/v1/';"
        "field.dispatchEvent(new Event('input')); }"
    )
    shown = page.evaluate(
        "[...document.querySelectorAll('#operations details')].filter((each) =>"
        " each.offsetParent).map((each) => each.querySelector('summary').innerText)"
    )
    assert shown and all("/v1/" in each for each in shown)
    assert page.faults == []


def test_a_server_that_is_gone_is_told(page: Page, tmp_path: Path) -> None:
    with running_server(Settings(repository=tmp_path, isolate=False, watch=False)) as other:
        page.open(other.url)
        page.until("document.querySelector('#models').innerText.includes('millrace push')")
    page.until("document.querySelector('#trouble').innerText.includes('does not answer')")
