from __future__ import annotations

from pathlib import Path

import pytest

from server import errors
from server.errors import STATUS, ServerError, status_of


def tree(cls: type[ServerError] = ServerError) -> list[type[ServerError]]:
    return [cls] + [found for child in cls.__subclasses__() for found in tree(child)]


@pytest.mark.parametrize("cls", [c for c in tree() if c.__module__ == "server.errors"])
def test_every_error_has_a_status_a_code_and_a_place_in_the_drawing(
    cls: type[ServerError],
) -> None:
    assert cls in STATUS or cls.__mro__[1] in STATUS
    assert cls.code
    assert errors.__doc__ is not None
    assert cls.__name__ in errors.__doc__


def test_the_tensor_doors_know_no_422() -> None:
    error = errors.InvalidInput("no", field="x")
    assert (status_of(error), status_of(error, tensor_door=True)) == (422, 400)
    full = errors.QueueFull("full", retry_after_s=1.5)
    assert status_of(full, tensor_door=True) == 429
    assert full.body() == {"error": "full", "code": "queue_full", "retry_after_s": 1.5}


def test_an_error_defined_elsewhere_has_its_parents_status() -> None:
    class Special(errors.Conflict):
        """Somebody's own."""

    assert status_of(Special("x")) == 409


def test_every_code_is_in_the_api_page() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "api.md").read_text()
    codes = {cls.code for cls in tree() if cls in STATUS} - {"busy", "rejected"}  # never raised
    assert not [code for code in codes if f"`{code}`" not in page]
