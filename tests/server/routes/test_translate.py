"""`POST /translate`, and a translation model at every other door."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from server.schemas import TranslateAnswer, Translated, TranslatedSentence
from tests.server.running import RunningServer, wait_until
from tests.server.shouting import MODELS, SCORE, shouted


@pytest.fixture
def client(shouting_server: RunningServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=shouting_server.url, timeout=200.0) as session:
        yield session


def translate(client: httpx.Client, **body: object) -> dict:
    answer = client.post("/translate", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_a_text_is_translated(client: httpx.Client) -> None:
    body = translate(client, text="Hallo Welt. Wie geht es?", id="mine")
    [found] = body.pop("translations")
    assert body == {"model": "shout", "version": "1", "task": "translation", "id": "mine"}
    assert found == {
        "text": "HALLO WELT. WIE GEHT ES?",
        "score": SCORE,
        "tokens": 27,
        "truncated": False,
        "split": False,
        "repetition": False,
        "untranslated": 0,
        "source": "de",
        "target": "en",
    }


def test_words_are_aligned(client: httpx.Client) -> None:
    text = "Hallo, alte Welt! Siehe https://a.example dort. Ein <b>Haus</b> hier."
    [found] = translate(client, text=text, alignment=True)["translations"]
    first, second, third = found["sentences"]
    TranslatedSentence.model_validate(first)
    words = [
        (first["source"][slice(*link["source"])], first["text"][slice(*link["target"])])
        for link in first["alignment"]
    ]
    assert words == [("Hallo", "HALLO"), ("alte", "ALTE"), ("Welt", "WELT")]
    assert {link["weight"] for link in first["alignment"]} == {1.0}
    assert second["alignment"] is None  # the model loses the stand-in: pieces around the address
    assert third["alignment"] is None  # there are tags in it
    [plain] = translate(client, text=text, sentences=True)["translations"]
    assert all("alignment" not in sentence for sentence in plain["sentences"])


def test_what_stands_between_sentences_stays(client: httpx.Client) -> None:
    text = "  Eins.\n\n- zwei drei\n\t1. vier!   fünf?\r\nhttps://example.org/Weg und a@b.de\n"
    [found] = translate(client, text=text)["translations"]
    kept = shouted(text).replace("HTTPS://EXAMPLE.ORG/WEG", "https://example.org/Weg")
    assert found["text"] == kept.replace("A@B.DE", "a@b.de")


@pytest.mark.parametrize("text", ["", " ", "\n\n", "123", "https://example.org/a?b=c", "🙂"])
def test_what_holds_nothing_to_translate_comes_back(client: httpx.Client, text: str) -> None:
    assert translate(client, text=text)["translations"][0]["text"] == text


def test_a_list_is_answered_in_order(client: httpx.Client) -> None:
    texts = ["eins", "zwei", "", "vier"]
    found = translate(client, text=texts)["translations"]
    assert [each["text"] for each in found] == [shouted(text) for text in texts]


def test_details_of_sentences(client: httpx.Client) -> None:
    parameters = {"log_probabilities": True}
    [found] = translate(client, text="Ja. Nein.", parameters=parameters)["translations"]
    first, second = found["sentences"]
    assert (first["source"], first["text"], first["start"]) == ("Ja.", "JA.", 0)
    assert (second["text"], second["start"]) == ("NEIN.", 4)
    assert first["log_probabilities"] == [SCORE] * len(first["tokens"])
    assert found["tokens"] == len(first["tokens"]) + len(second["tokens"])


def test_verbatim_text_is_one_sentence(client: httpx.Client) -> None:
    parameters = {"verbatim": True, "sentences": True}
    [found] = translate(client, text="Ja. Nein.", parameters=parameters)["translations"]
    assert [each["source"] for each in found["sentences"]] == ["Ja. Nein."]
    assert found["text"] == "JA. NEIN."


def test_alternatives(client: httpx.Client) -> None:
    [found] = translate(client, text="Ja. Nein.", n_best=3)["translations"]
    assert [each["text"] for each in found["alternatives"]] == ["JA.! NEIN.!", "JA.!! NEIN.!!"]
    assert found["alternatives"][0]["score"] == SCORE - 1


def test_a_translation_that_was_cut_off_says_so(client: httpx.Client) -> None:
    [found] = translate(client, text="abcdefgh", max_new_tokens=4)["translations"]
    assert found["truncated"] and found["text"] == "ABC"


def test_a_long_sentence_is_split_and_says_so(client: httpx.Client) -> None:
    text = "wort " * 80 + "ende."
    [found] = translate(client, text=text, max_new_tokens=255)["translations"]
    assert found["split"] and not found["truncated"]
    assert found["text"] == shouted(text)


def test_terms_of_a_glossary(client: httpx.Client) -> None:
    glossary = {"Haus": "home"}
    [found] = translate(client, text="Das Haus brennt.", glossary=glossary)["translations"]
    assert "home" in found["text"] and "HAUS" not in found["text"]


def test_markup(client: httpx.Client) -> None:
    text = "<p>Ein <b>Haus</b> &amp; ein Tor.</p>"
    [found] = translate(client, text=text, format="html")["translations"]
    assert found["text"] == "<p>EIN <b>HAUS</b> &amp; EIN TOR.</p>"


def test_the_language_is_found_out(client: httpx.Client) -> None:
    text = "Ich habe gestern meinen Schlüssel verloren."
    [found] = translate(client, text=text, source="auto")["translations"]
    assert found["detected"]["language"] == "de" and found["detected"]["confidence"] > 0.5
    assert found["source"] == "de"


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ({"Content-Type": "text/plain"}, "Grüne"),
        ({"Content-Type": "application/x-www-form-urlencoded"}, '{"text": "Grüne"}'),
        ({"Content-Type": "application/x-www-form-urlencoded"}, "text=Gr%C3%BCne"),
        ({}, '{"text": "Grüne"}'),
    ],
)
def test_forms_of_a_body(client: httpx.Client, headers: dict, body: str) -> None:
    answer = client.post("/translate", content=body.encode(), headers=headers)
    assert answer.json()["translations"][0]["text"].startswith("GRÜNE")


def test_a_form_may_hold_all_there_is(client: httpx.Client) -> None:
    form = {"text": "Das Haus 5", "glossary": '{"Haus": "home"}', "version": "1", "n_best": "2"}
    [found] = client.post("/translate", data=form).json()["translations"]
    assert "home" in found["text"] and found["alternatives"]
    assert client.post("/translate?text=5", data={"model": "shout"}).status_code == 200
    broken = client.post("/translate", data={"text": "a", "glossary": "{"})
    assert (broken.status_code, broken.json()["code"]) == (400, "malformed_request")
    picture = client.post("/translate", content=b"x", headers={"Content-Type": "image/png"})
    assert (picture.status_code, picture.json()["code"]) == (415, "unsupported_media")


def test_large_texts_are_handled_off_the_loop(client: httpx.Client) -> None:
    text = "Ein Satz ist das.\n" * 20 + "x" * 2200
    body = gzip.compress(json.dumps({"text": text}).encode())
    headers = {"Content-Encoding": "gzip", "Content-Type": "application/json"}
    answer = client.post("/translate", content=body, headers=headers)
    assert answer.json()["translations"][0]["text"].startswith("EIN SATZ IST DAS.\n")
    assert answer.json()["translations"][0]["split"]
    broken = client.post("/translate", content=b"x", headers=headers)
    assert broken.status_code == 400


def test_a_form_with_files(client: httpx.Client) -> None:
    files = [("file", ("a.txt", b"eins", "text/plain")), ("file", ("b.txt", b"zwei"))]
    answer = client.post("/translate", files=files, data={"model": "shout", "beams": "2"})
    assert [each["text"] for each in answer.json()["translations"]] == ["EINS", "ZWEI"]


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({}, 422, "text"),
        ({"text": 5}, 422, "a string or a list of strings"),
        ({"text": ["a", 5]}, 422, "a string or a list of strings"),
        ({"text": []}, 422, "1 to 8 texts"),
        ({"text": ["a"] * 9}, 422, "1 to 8 texts"),
        ({"text": "a", "beams": 0}, 422, "beams"),
        ({"text": "a", "beams": 10**30}, 422, "beams"),
        ({"text": "a", "parameters": {"beems": 3}}, 422, "unknown parameter 'beems'"),
        ({"text": "a", "parameters": []}, 200, ""),
        ({"text": "a", "parameters": [1]}, 422, "an object"),
        ({"text": "a", "n_best": 3, "beams": 2}, 422, "n_best = 3 needs as many beams"),
        ({"text": "a", "min_new_tokens": 9, "max_new_tokens": 3}, 422, "min_new_tokens"),
        ({"text": "a", "format": "markdown"}, 422, "'text' or 'html'"),
        ({"text": "a", "glossary": {"": "x"}}, 422, "glossary"),
        ({"text": "a", "source": "fr"}, 422, "fr"),
        ({"text": "a", "target": "fr"}, 422, "fr"),
        ({"text": "a", "target": 3}, 422, "target"),
        ({"text": "a", "model": "echo"}, 422, "send it to /predict"),
        ({"text": "a", "model": "nothing"}, 404, "no model 'nothing'"),
        ({"text": "a", "version": "7"}, 404, "version '7'"),
        ({"text": "x" * 3001}, 413, "3000"),
        ({"text": "Hier.\n" * 41}, 413, "40"),
        ({"text": "a", "timeout_s": 0}, 422, "timeout_s"),
        ({"text": "a", "priority": 10}, 422, "priority"),
    ],
)
def test_what_is_wrong_is_told(client: httpx.Client, body: dict, status: int, words: str) -> None:
    answer = client.post("/translate", json=body)
    assert answer.status_code == status, answer.text
    assert status == 200 or words in answer.json()["error"]


def test_a_text_that_fails_fails_alone(client: httpx.Client) -> None:
    found = translate(client, text=["x" * 3001, "gut"])["translations"]
    assert found[0]["code"] == "payload_too_large"
    assert found[1]["text"] == "GUT"


def test_sampling_says_its_seed(client: httpx.Client) -> None:
    assert translate(client, text="a", sample=True, seed=7)["translations"][0]["seed"] == 7
    assert isinstance(translate(client, text="a", sample=True)["translations"][0]["seed"], int)


# Events


def events_of(answer: httpx.Response) -> list[tuple[str, dict]]:
    found = []
    for block in "".join(answer.iter_text()).split("\n\n")[:-1]:
        name, data = block.split("\n")
        found.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return found


def streamed(client: httpx.Client, **body: object) -> list[tuple[str, dict]]:
    headers = {"Accept": "text/event-stream"}
    with client.stream("POST", "/translate", json=body, headers=headers) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        return events_of(answer)


@pytest.mark.parametrize("beams", [1, 2])
def test_a_translation_comes_piece_by_piece(client: httpx.Client, beams: int) -> None:
    text = "Erster Satz hier.\n Zweiter https://a.example/ Satz.  Dritter\n"
    *pieces, (last, answer) = streamed(client, text=text, beams=beams)
    assert last == "done" and {name for name, _ in pieces} == {"text"}
    [found] = answer["translations"]
    assert "".join(data["text"] for _, data in pieces) == found["text"]
    # Sentences that are done in the same step come as one piece; tokens each come as their own.
    assert len(pieces) > (10 if beams == 1 else 0)


def test_pieces_of_several_texts_say_whose_they_are(client: httpx.Client) -> None:
    *pieces, (_, answer) = streamed(client, text=["eins eins", "zwei"])
    for index, found in enumerate(answer["translations"]):
        told = "".join(data["text"] for _, data in pieces if data["index"] == index)
        assert told == found["text"]


def test_a_stream_that_cannot_begin_is_an_error(client: httpx.Client) -> None:
    headers = {"Accept": "text/event-stream"}
    answer = client.post("/translate", json={"text": "a", "beams": 0}, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_input")


def test_a_stream_of_a_text_that_fails_ends_with_its_error(client: httpx.Client) -> None:
    [(name, answer)] = streamed(client, text="x" * 3001)
    assert name == "done" and answer["code"] == "payload_too_large"


def test_a_client_that_goes_away_frees_its_slots(
    shouting_server: RunningServer, client: httpx.Client
) -> None:
    model = MODELS["shout"]
    decoder = model.decoders[-1]
    headers = {"Accept": "text/event-stream"}
    body = {"text": "lange laeuft das hier nicht mehr weiter"}
    before = client.get("/metrics").text
    with client.stream("POST", "/translate", json=body, headers=headers) as answer:
        next(answer.iter_text())
        model.gate.clear()
    model.gate.set()
    wait_until(lambda: decoder.free_rows == decoder.sizes.rows)
    wait_until(lambda: client.get("/models/shout").json()["versions"][0]["leases"] == 0)
    assert before != client.get("/metrics").text


# The other doors


def test_predict_gives_the_same(client: httpx.Client) -> None:
    body = {"model": "shout", "inputs": [{"text": "ja"}, {"tensors": {"x": [1]}}, {"text": "nein"}]}
    answer = client.post("/predict", json=body).json()
    assert (answer["task"], answer["model"]) == ("translation", "shout")
    assert [each.get("text") for each in answer["results"]] == ["JA", None, "NEIN"]
    assert answer["results"][1]["code"] == "invalid_input"
    raw = client.post("/predict?model=shout&n_best=2", content=b"ja", headers=PLAIN).json()
    assert raw["results"][0]["alternatives"][0]["text"] == "JA!"


PLAIN = {"Content-Type": "text/plain"}


@pytest.mark.parametrize("door", ["/classify", "/embed"])
def test_doors_of_other_tasks_refuse(client: httpx.Client, door: str) -> None:
    answer = client.post(door, json={"model": "shout", "inputs": [{"text": "ja"}]})
    assert answer.status_code == 422
    assert "send it to /translate" in answer.json()["error"]


def test_v2_takes_and_gives_strings(client: httpx.Client) -> None:
    described = client.get("/v2/models/shout").json()
    assert described["inputs"] == [{"name": "text", "datatype": "BYTES", "shape": [-1]}]
    assert described["outputs"] == [{"name": "translation", "datatype": "BYTES", "shape": [-1]}]
    tensor = {"name": "text", "shape": [2], "datatype": "BYTES", "data": ["ja", "nein"]}
    answer = client.post("/v2/models/shout/infer", json={"inputs": [tensor]})
    assert answer.json()["outputs"] == [
        {"name": "translation", "shape": [2], "datatype": "BYTES", "data": ["JA", "NEIN"]}
    ]
    assert client.get("/v2/models/shout/config").json()["input"][0]["data_type"] == "TYPE_STRING"
    assert client.get("/v2/models/shout/stats").status_code == 200


def test_v2_refuses_what_is_no_text(client: httpx.Client) -> None:
    tensor = {"name": "text", "shape": [1], "datatype": "FP32", "data": [1.0]}
    answer = client.post("/v2/models/shout/infer", json={"inputs": [tensor]})
    assert answer.status_code == 400
    tensor = {"name": "text", "shape": [1], "datatype": "BYTES", "data": ["x" * 3001]}
    answer = client.post("/v2/models/shout/infer", json={"inputs": [tensor]})
    assert answer.status_code == 413
    tensor = {"name": "text", "shape": [1], "datatype": "BYTES", "data": ["ja"]}
    body = {"inputs": [tensor], "outputs": [{"name": "logits"}]}
    answer = client.post("/v2/models/shout/infer", json=body)
    assert answer.status_code == 400 and "'translation'" in answer.json()["error"]


def test_v1_takes_and_gives_strings(client: httpx.Client) -> None:
    answer = client.post("/v1/models/shout:predict", json={"instances": ["ja", "nein"]})
    assert answer.json() == {"predictions": ["JA", "NEIN"]}
    assert client.get("/v1/models/shout/metadata").status_code == 200


def test_the_status_shows_what_is_known(client: httpx.Client) -> None:
    status = client.get("/models/shout").json()
    assert status["task"] == "translation"
    metadata = status["versions"][0]["metadata"]
    assert metadata["notes"] == ["written for tests"]
    assert metadata["languages"] == {"source": ["de"], "target": ["en"]}
    assert metadata["generation"]["beams"] == 1 and metadata["generation"]["max_new_tokens"] == 200
    assert metadata["memory"]["weights_bytes"] == 1000


# What the pages say


def test_answers_are_what_the_openapi_page_says(client: httpx.Client) -> None:
    body = {"text": ["ja. nein.", "x" * 3001], "n_best": 2, "log_probabilities": True}
    answer = translate(client, **body, alignment=True, source="auto")
    validated = TranslateAnswer.model_validate(answer)
    found, failed = validated.translations
    assert isinstance(found, Translated) and not isinstance(failed, Translated)
    assert set(answer["translations"][0]) <= set(Translated.model_fields)
    sentence = answer["translations"][0]["sentences"][0]
    assert set(sentence) == set(TranslatedSentence.model_fields)


def test_every_parameter_is_documented(client: httpx.Client) -> None:
    answer = client.post("/translate", json={"text": "a", "parameters": {"beems": 1}})
    page = (Path(__file__).parents[3] / "docs" / "translation.md").read_text()
    missing = [name for name in answer.json()["expected"] if f"`{name}`" not in page]
    assert not missing
