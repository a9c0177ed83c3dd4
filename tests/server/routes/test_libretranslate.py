"""LibreTranslate's clients find what they know."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from tests.server.running import RunningServer

GERMAN = "Ich habe gestern meinen Schlüssel verloren."


@pytest.fixture
def client(shouting_server: RunningServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=shouting_server.url, timeout=200.0) as session:
        yield session


def ask(client: httpx.Client, **body: object) -> httpx.Response:
    return client.post("/translate", json={"source": "de", "target": "en", **body})


def test_a_text_as_json_and_as_a_form(client: httpx.Client) -> None:
    body = {"q": "ja\nnein", "source": "de", "target": "en", "format": "text", "api_key": "x"}
    for answer in (client.post("/translate", json=body), client.post("/translate", data=body)):
        assert answer.status_code == 200
        assert answer.json() == {"translatedText": "JA\nNEIN"}
    parts = {name: (None, value) for name, value in body.items()}
    assert client.post("/translate", files=parts).json() == {"translatedText": "JA\nNEIN"}


def test_a_list_as_json_and_as_a_form(client: httpx.Client) -> None:
    assert ask(client, q=["ja", "nein"]).json() == {"translatedText": ["JA", "NEIN"]}
    form = {"q": ["ja", "nein"], "source": "de", "target": "en"}
    assert client.post("/translate", data=form).json() == {"translatedText": ["JA", "NEIN"]}


def test_the_source_may_be_found_out(client: httpx.Client) -> None:
    found = ask(client, q=GERMAN, source="auto").json()
    assert found["translatedText"] == GERMAN.upper()
    assert found["detectedLanguage"]["language"] == "de"
    assert 50 < found["detectedLanguage"]["confidence"] <= 100
    found = ask(client, q=[GERMAN, "42"], source="auto").json()
    assert [each["language"] for each in found["detectedLanguage"]] == ["de", "en"]
    assert found["detectedLanguage"][1]["confidence"] == 0


def test_alternatives(client: httpx.Client) -> None:
    assert ask(client, q="ja", alternatives=2).json() == {
        "translatedText": "JA",
        "alternatives": ["JA!", "JA!!"],
    }
    found = ask(client, q=["ja", "1"], alternatives=1).json()
    assert found["alternatives"] == [["JA!"], []]


def test_markup_and_nothing(client: httpx.Client) -> None:
    assert ask(client, q="<i>ja</i> &lt;", format="html").json()["translatedText"].count("<") == 2
    assert ask(client, q="").json() == {"translatedText": ""}
    assert ask(client, q="ja", target="de").json() == {"translatedText": "ja"}


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"q": None}, "Invalid request: missing q parameter"),
        ({"q": 5}, "a string or a list of strings"),
        ({"q": "ja", "source": None}, "Invalid request: missing source parameter"),
        ({"q": "ja", "target": None}, "Invalid request: missing target parameter"),
        ({"q": "ja", "source": "fr"}, "fr is not supported"),
        ({"q": "ja", "target": "fr"}, "fr is not supported"),
        ({"q": "ja", "target": "auto"}, "auto is not supported"),
        ({"q": "ja", "source": 3}, "the code of a language"),
        ({"q": "ja", "format": "rtf"}, "'text' or 'html'"),
        ({"q": "ja", "alternatives": -1}, "alternatives"),
        ({"q": "ja", "alternatives": 10**20}, "alternatives"),
        ({"q": "x" * 3001}, "3000"),
        ({"q": []}, "1 to 8 texts"),
        ({"q": "ja", "model": 5}, "`model` must be a string"),
        ({"q": "ja", "model": "echo"}, "not for translation"),
    ],
)
def test_what_is_wrong_is_a_400(client: httpx.Client, body: dict, words: str) -> None:
    answer = ask(client, **body)
    assert answer.status_code == 400, answer.text
    assert words in answer.json()["error"]


def test_languages(client: httpx.Client) -> None:
    assert client.get("/languages").json() == [
        {"code": "de", "name": "German", "targets": ["de", "en"]},
        {"code": "en", "name": "English", "targets": ["en"]},
    ]


def test_detect(client: httpx.Client) -> None:
    best = client.post("/detect", json={"q": GERMAN}).json()[0]
    assert best["language"] == "de" and best["confidence"] > 50
    assert client.post("/detect", data={"q": "Where is the station?"}).json()[0]["language"] == "en"
    assert client.post("/detect", json={"q": "..."}).json() == [
        {"confidence": 0.0, "language": "en"}
    ]
    assert client.post("/detect", json={}).status_code == 400
    assert client.post("/detect", content=b"\xff").status_code == 400


def test_settings_of_its_web_page(client: httpx.Client) -> None:
    found = client.get("/frontend/settings").json()
    assert found["keyRequired"] is False
    assert found["language"]["target"] == {"code": "en", "name": "English"}
