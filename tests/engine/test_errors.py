"""Errors cross process boundaries whole and say what they know."""

from __future__ import annotations

import copy
import multiprocessing.reduction

import pytest

from engine import errors


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (
            errors.UnsupportedOp("n", "Fuse", "my", 3),
            "node 'n': operator my.Fuse at opset 3: no such",
        ),
        (errors.UnsupportedOp("n", "Abs", "", 3, "because"), "operator Abs at opset 3: because"),
        (errors.ResourceLimit("n", "2 bytes", "run_bytes=1"), "n: needs 2 bytes, the limit is run"),
        (errors.RunFailed("n", "Abs", "why"), "node 'n' (Abs) failed: why"),
        (errors.InvalidInput("x is missing"), "x is missing"),
    ],
)
def test_errors_survive_copying_and_keep_their_text(error: errors.EngineError, text: str) -> None:
    other = multiprocessing.reduction.ForkingPickler.loads(
        multiprocessing.reduction.ForkingPickler.dumps(error)
    )
    for again in (other, copy.copy(error)):
        assert type(again) is type(error)
        assert str(again) == str(error)
        assert vars(again) == vars(error)
    assert text in str(error)
    assert isinstance(error, errors.EngineError)


def test_every_class_is_in_the_drawing() -> None:
    named = [
        each
        for each in vars(errors).values()
        if isinstance(each, type) and issubclass(each, errors.EngineError)
    ]
    assert errors.__doc__ is not None
    assert not [cls.__name__ for cls in named if cls.__name__ not in errors.__doc__]
