"""Languages are recognised without a network."""

from __future__ import annotations

import threading

import pytest

from server.text import LanguageDetector, base_language, pick_language

DETECTOR = LanguageDetector()


def test_threads_share_one_model() -> None:
    found: list[str] = []

    def ask() -> None:
        found.append(DETECTOR.detect("Der Zug ist rot.")[0].language)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == ["de"] * 4


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("Wo ist der n\u00e4chste Bahnhof?", "de"),
        ("Where is the nearest station?", "en"),
        ("O\u00f9 est la gare la plus proche ?", "fr"),
        ("\u0413\u0434\u0435 \u0432\u043e\u043a\u0437\u0430\u043b?", "ru"),
        ("\u99c5\u306f\u3069\u3053\u3067\u3059\u304b\u3002", "ja"),
        ("ICH HABE MEINEN SCHL\u00dcSSEL VERLOREN", "de"),
    ],
)
def test_sentences_are_recognised(text: str, language: str) -> None:
    found = DETECTOR.detect(text)
    assert found[0].language == language
    assert sum(each.confidence for each in found) == pytest.approx(1.0)
    assert [each.confidence for each in found] == sorted(
        (each.confidence for each in found), reverse=True
    )


def test_only_what_comes_into_question_is_named() -> None:
    found = DETECTOR.detect("Where is it?", among=["deu_Latn", "fr", "tlh"])
    assert {each.language for each in found} == {"de", "fr", "tlh"}
    assert found[-1].language == "tlh"  # nobody knows it: the least likely
    assert sum(each.confidence for each in found) == pytest.approx(1.0)


@pytest.mark.parametrize("text", ["", " ", "123 !?", "\U0001f600", "\x00"])
def test_no_letters_no_language(text: str) -> None:
    assert DETECTOR.detect(text) == ()


def test_odd_text_is_no_trouble() -> None:
    assert DETECTOR.detect("\ud800 x " * 10_000)
    assert DETECTOR.detect("x", among=["tlh"])[0].confidence == 0.0


def test_names_of_languages() -> None:
    assert [base_language(name) for name in ("de", "DE-at", "deu_Latn", "de_DE", "xyz")] == [
        "de", "de", "de", "de", "xyz",
    ]  # fmt: skip
    known = ["eng_Latn", "zho_Hans", "zho_Hant"]
    assert pick_language("zh-hant", known) == "zho_Hant"
    assert pick_language("zh", known) == "zho_Hans"
    assert pick_language("de", known) is None
