from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from engine.errors import InvalidModel, ResourceLimit, RunFailed
from engine.interpreter import GraphPlan
from engine.limits import Limits
from engine.ops import text_ngrams
from tests.engine.ops.single_node import NodeCase, check_node, check_rows, row_states


def words(*texts: str, shape: tuple[int, ...] | None = None) -> np.ndarray:
    return np.array(texts, object).reshape(shape or (len(texts),))


def run(op: str, *inputs: np.ndarray, outputs: int = 1, **attributes: Any) -> list[np.ndarray]:
    return NodeCase(op, inputs, attributes, opset=20, outputs=outputs).run_engine("symbolic")


# ---------------------------------------------------------------------- StringNormalizer


@pytest.mark.parametrize("shape", [(5,), (1, 5)])
@pytest.mark.parametrize("stopwords", [{}, {"stopwords": ["b", "A"]}])
def test_normalizer(shape, stopwords):
    x = words("a", "A", "b", "", "É", shape=shape)
    check_node("StringNormalizer", x, is_case_sensitive=1, atol=0, **stopwords)


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({"case_change_action": "UPPER"}, ["A", "A", "B", "", "É"]),
        ({"case_change_action": "LOWER", "locale": "de_DE"}, ["a", "a", "b", "", "é"]),
        ({"stopwords": ["a", "é"]}, ["b", ""]),
        ({"stopwords": ["A"], "case_change_action": "LOWER", "is_case_sensitive": 1},
         ["a", "b", "", "é"]),
        ({"stopwords": ["a", "b", "", "É"]}, [""]),
    ],
)  # fmt: skip
def test_normalizer_that_changes_case(attributes, expected):
    """ONNX Runtime needs the system's own locales for these."""
    x = words("a", "A", "b", "", "É")
    assert run("StringNormalizer", x, **attributes)[0].tolist() == expected
    assert run("StringNormalizer", x[None], **attributes)[0].tolist() == [expected]


def test_normalizer_of_nothing():
    assert run("StringNormalizer", words())[0].tolist() == [""]


@pytest.mark.parametrize(
    ("x", "attributes"),
    [
        (words("a"), {"case_change_action": "TITLE"}),
        (words("a", "b", shape=(2, 1)), {}),
        (words("a", shape=(1, 1, 1)), {}),
    ],
)
def test_normalizer_of_what_does_not_fit(x, attributes):
    with pytest.raises(InvalidModel):
        NodeCase("StringNormalizer", [x], attributes).graph()


def test_normalizer_of_several_rows_fails_when_it_runs():
    with pytest.raises((RunFailed, InvalidModel), match=r"\[1, C\]"):
        run("StringNormalizer", words("a", "b", shape=(2, 1)))


# ---------------------------------------------------------------------- StringSplit


@pytest.mark.parametrize(
    "delimiter", [{}, {"delimiter": ""}, {"delimiter": ","}, {"delimiter": "ab"}]
)
@pytest.mark.parametrize("most", [{}, {"maxsplit": 1}, {"maxsplit": 2}])
def test_split(delimiter, most):
    x = words("a b  c ", "a,b,,c", " x", ",", "a,", "1ab2abab3", shape=(2, 3))
    check_node("StringSplit", x, opset=20, outputs=2, atol=0, **delimiter, **most)


def test_split_at_any_white_space():
    parts, counts = run("StringSplit", words("a\tb\n c", "", "  "), outputs=2)
    assert parts.tolist() == [["a", "b", "c"], ["", "", ""], ["", "", ""]]
    assert counts.tolist() == [3, 0, 0]
    parts, counts = run("StringSplit", words("", "a,b"), outputs=2, delimiter=",")
    assert (parts.tolist(), counts.tolist()) == ([["", ""], ["a", "b"]], [1, 2])


def test_split_of_nothing():
    parts, counts = run("StringSplit", words(shape=(2, 0)), outputs=2)
    assert (parts.shape, counts.shape) == ((2, 0, 0), (2, 0))


def test_split_rows():
    case = NodeCase("StringSplit", [words("a b", "c", "d e f")], {}, opset=20, outputs=2)
    assert [state.is_rows for state in check_rows(case, (0,))] == [False, True]


# ---------------------------------------------------------------------- StringConcat


def test_concat():
    x, y = words("a", "", "é", shape=(3, 1)), words("1", "2")
    check_node("StringConcat", x, y, opset=20, atol=0)
    check_node("StringConcat", x[0, 0:1].reshape(()), y, opset=20, atol=0)
    both = NodeCase("StringConcat", [x, x], opset=20)
    assert check_rows(both, (0, 1))[0].is_rows
    (state,) = check_rows(NodeCase("StringConcat", [x, words("1", "2", "3")], opset=20), (1,))
    assert (state.is_rows, state.axis) == (True, 1)


def test_concat_counts_the_text_itself():
    x = words("a" * 100_000)
    plan = GraphPlan(
        NodeCase("StringConcat", [x, x], opset=20).graph(), limits=Limits(run_bytes=150_000)
    )
    with pytest.raises(ResourceLimit):
        plan.run({"x0": x, "x1": x})


def test_numbers_are_no_strings():
    number = np.zeros(2, np.float32)
    node = NodeCase("StringConcat", [number, number], opset=20)
    with pytest.raises(InvalidModel, match="strings"):
        node.graph()


# ---------------------------------------------------------------------- TfIdfVectorizer

POOL: dict[str, Any] = {
    "ngram_counts": [0, 4, 10],
    "ngram_indexes": [6, 5, 4, 3, 2, 1, 0, 7],
    "pool_int64s": [2, 3, 5, 4, 5, 6, 7, 8, 6, 7, 7, 7, 7],
}
TEXT = np.array([[1, 1, 3, 3, 3, 7], [8, 6, 7, 5, 6, 8], [7, 7, 7, 7, 2, 4]])


@pytest.mark.parametrize("mode", ["TF", "IDF", "TFIDF"])
@pytest.mark.parametrize(("shortest", "longest"), [(1, 1), (1, 2), (2, 2), (2, 3), (1, 3)])
@pytest.mark.parametrize("skips", [0, 1, 5])
def test_vectorizer(mode, shortest, longest, skips):
    attributes = {
        **POOL,
        "mode": mode,
        "min_gram_length": shortest,
        "max_gram_length": longest,
        "max_skip_count": skips,
        "weights": [0.5 * k + 1 for k in range(8)],
    }
    check_node("TfIdfVectorizer", TEXT, **attributes)
    check_node("TfIdfVectorizer", TEXT[1].astype(np.int32), **attributes)
    names = {**attributes, "pool_strings": [f"w{k}" for k in POOL["pool_int64s"]]}
    del names["pool_int64s"]
    as_words = np.array([f"w{k}" for k in TEXT.flat], object).reshape(TEXT.shape)
    check_node("TfIdfVectorizer", as_words, **names)


TF: dict[str, Any] = {
    **POOL, "mode": "TF", "min_gram_length": 1, "max_gram_length": 3, "max_skip_count": 1
}  # fmt: skip


def test_vectorizer_of_little():
    for x in (TEXT[:, :0], TEXT[:0], TEXT[0, :1]):
        (y,) = run("TfIdfVectorizer", x, **TF)
        assert y.shape == (*x.shape[:-1], 8)
        assert not y.any()


def test_chunks_join_to_the_whole(monkeypatch):
    case = NodeCase("TfIdfVectorizer", [TEXT], TF)
    (whole,) = case.run_engine()
    monkeypatch.setattr(text_ngrams, "CHUNK", 1)
    np.testing.assert_array_equal(case.run_engine()[0], whole)


def test_a_long_n_gram_in_a_long_text():
    """All its windows beside each other would take gigabytes."""
    n = 20_000
    pool = np.arange(n).tolist()
    attributes = {
        "mode": "TF", "min_gram_length": n, "max_gram_length": n, "max_skip_count": 0,
        "ngram_counts": [0] * n, "ngram_indexes": [0], "pool_int64s": pool,
    }  # fmt: skip
    text = np.concatenate([np.arange(n)[5:], np.arange(n), np.arange(n)])
    (y,) = run("TfIdfVectorizer", text, **attributes)
    assert y.tolist() == [2]


def test_vectorizer_rows():
    assert check_rows(NodeCase("TfIdfVectorizer", [TEXT], TF), (0,))[0].is_rows
    assert not row_states(NodeCase("TfIdfVectorizer", [TEXT[0]], TF), (0,))[0].is_rows


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"mode": "BM25"}, "BM25"),
        ({"pool_strings": ["a"]}, "other kind|either"),
        ({"weights": [1.0]}, "weights"),
        ({"ngram_counts": [0, 5, 10]}, "2-grams"),
        ({"ngram_counts": [4, 0, 10]}, "count up"),
        ({"ngram_counts": [0, 4, 99]}, "count up"),
        ({"ngram_indexes": [0, 1]}, "column each"),
        ({"ngram_indexes": list(range(9))}, "9 ngram_indexes"),
        ({"ngram_indexes": [-1] * 8}, "ngram_indexes"),
        ({"max_gram_length": 4}, "n-grams of 1 to 4"),
        ({"min_gram_length": 0}, "n-grams of 0"),
        ({"max_skip_count": -1}, "max_skip_count"),
    ],
)
def test_pools_that_do_not_fit(change, match):
    with pytest.raises(InvalidModel, match=match):
        NodeCase("TfIdfVectorizer", [TEXT], {**TF, **change}).run_engine()


def test_a_column_far_away_is_refused_before_it_is_made():
    attributes = {**TF, "ngram_indexes": [0, 1, 2, 3, 4, 5, 6, 1 << 40]}
    case = NodeCase("TfIdfVectorizer", [TEXT], attributes)
    with pytest.raises(ResourceLimit):
        GraphPlan(case.graph(), limits=Limits(run_bytes=1 << 20)).run(case.feeds())


# ---------------------------------------------------------------------- Tokenizer

TOKENIZER: dict[str, Any] = {"pad_value": "#", "mark": 0, "mincharnum": 1}


@pytest.mark.parametrize(
    "how",
    [
        {"separators": [""]},
        {"separators": [","]},
        {"separators": [",", ";", " "]},
        {"separators": ["[,; ]+"]},
        {"separators": ["b|bb"]},
        {"separators": ["(,)|(;)"]},
        {"separators": [","], "tokenexp": "a"},
        {"tokenexp": "[a-z]+"},
        {"tokenexp": "a|ab|abb"},
        {"tokenexp": "b*"},
        {"tokenexp": r"\w+"},
        {"tokenexp": "a(b)?"},
        {"tokenexp": "^a"},
        {"tokenexp": r"\bb|a\b"},
        {"tokenexp": "z"},
    ],
)
@pytest.mark.parametrize("more", [{}, {"mark": 1}, {"mincharnum": 2}])
def test_tokenizer(how, more):
    if how == {"separators": [""]} and more == {"mincharnum": 2}:
        pytest.skip("ONNX Runtime refuses that")
    x = words("ab, c;d", "", "abba é x", "  ,a,,b ", shape=(2, 2))
    for each in (x, x.reshape(-1)):
        check_node(
            "Tokenizer", each, domain="com.microsoft", atol=0, **{**TOKENIZER, **how, **more}
        )


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({}, "separators or tokenexp"),
        ({"tokenexp": "(a"}, "regular expression"),
        ({"separators": [",", "*"]}, "regular expression"),
        ({"tokenexp": "a", "mincharnum": 0}, "mincharnum"),
    ],
)
def test_tokenizers_that_do_not_fit(change, match):
    case = NodeCase("Tokenizer", [words("a")], {**TOKENIZER, **change}, domain="com.microsoft")
    with pytest.raises(InvalidModel, match=match):
        case.graph()


def test_tokens_of_nothing():
    case = NodeCase(
        "Tokenizer", [words(shape=(0, 2))], {**TOKENIZER, "tokenexp": "a"}, domain="com.microsoft"
    )
    assert case.run_engine("symbolic")[0].shape == (0, 2, 0)
