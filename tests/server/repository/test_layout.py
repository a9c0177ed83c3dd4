"""Names and natural order."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.repository.layout import (
    Listing,
    NameInvalid,
    check_name,
    find_model_file,
    is_name,
    natural_key,
    natural_sorted,
    next_version,
    version_folders,
)

names = st.text(st.sampled_from("019av.-_"), min_size=1, max_size=8)


def test_versions_are_ordered_as_people_do():
    assert natural_sorted(["10", "2", "1"]) == ["1", "2", "10"]
    assert natural_sorted(["v1.10", "v1.9", "v1"]) == ["v1", "v1.9", "v1.10"]
    assert natural_sorted(["beta", "3"]) == ["3", "beta"]
    assert natural_sorted(["2024-01-10", "2024-01-9"]) == ["2024-01-9", "2024-01-10"]


@given(st.integers(0, 10**40), st.integers(0, 10**40), st.sampled_from(["", "v", "rel-1."]))
def test_numbers_are_compared_as_numbers(a: int, b: int, prefix: str):
    assert (natural_key(f"{prefix}{a}") < natural_key(f"{prefix}{b}")) == (a < b)


@given(st.lists(names, max_size=6, unique=True))
def test_the_order_is_total_and_does_not_depend_on_how_names_come(listed: list[str]):
    expected = natural_sorted(listed)
    assert all(natural_key(a) < natural_key(b) for a, b in itertools.pairwise(expected))
    assert natural_sorted(reversed(listed)) == expected


@given(st.text(max_size=300))
def test_a_name_that_passes_is_one_harmless_part_of_a_path(name: str):
    if not is_name(name):
        with pytest.raises(NameInvalid, match="name"):
            check_name(name)
        return
    assert check_name(name) == name
    assert not set(name) & set("/\\\0:")
    assert ".." not in name and not name.startswith(".") and 0 < len(name.encode()) <= 200


@pytest.mark.parametrize(
    "name",
    [
        *("", ".", "..", ".hidden", "a/b", "a\\b", "a\0b", "a..b", "a:predict", "x" * 129),
        *("é" * 120, "a\nb", " a", "a ", "a?b", "a#b", "%2e%2e", "\ud800"),
    ],
)
def test_hostile_names_are_refused_with_a_reason(name: str):
    with pytest.raises(NameInvalid, match=r"model name .* use up to 128"):
        check_name(name)


@pytest.mark.parametrize("name", ["digits", "resnet-50_v1.5", "v1.10", "10", "modèle", "a b"])
def test_usual_names_are_taken(name: str):
    assert check_name(name, "version") == name


def test_the_next_version_follows_the_largest_number():
    assert next_version([]) == "1"
    assert next_version(["1", "2", "10", "beta", "v99"]) == "11"


def test_the_graph_is_model_onnx_or_the_only_one():
    assert find_model_file(["model.onnx", "other.onnx"]) == "model.onnx"
    assert find_model_file(["net.onnx", "labels.txt"]) == "net.onnx"
    assert find_model_file(["a.onnx", "b.onnx"]) is None
    assert find_model_file([".x.onnx", "a.txt"]) is None


def listing(*files: str, folders: tuple[str, ...] = ()) -> Listing:
    return Listing(frozenset(files), frozenset(folders))


def test_folders_with_a_graph_are_versions():
    inner = {
        "10": listing("model.onnx"),
        "2": listing("model.onnx"),
        "samples": listing("0.npz"),
        "copying": listing("manifest.json"),
        "notes": listing("readme.txt"),
    }
    found = version_folders(listing("model.toml"), inner)
    assert list(found) == ["2", "10", "copying"]
    assert found["10"] == ("10",)


def test_files_directly_in_the_model_are_version_1():
    assert version_folders(listing("net.onnx"), {}) == {"1": ()}
    optimum = version_folders(listing("config.json"), {"onnx": listing("model.onnx")})
    assert optimum == {"1": ("onnx",)}


def test_a_folder_that_says_1_wins_over_files_that_imply_it():
    found = version_folders(listing("model.onnx"), {"1": listing("model.onnx")})
    assert found == {"1": ("1",)}
    beside = version_folders(listing("model.onnx"), {"2": listing("model.onnx")})
    assert beside == {"1": (), "2": ("2",)}


def test_an_encoder_with_its_decoder_stands_for_a_version():
    exported = ["encoder_model.onnx", "decoder_model.onnx", "decoder_with_past_model.onnx"]
    assert find_model_file([*exported, "config.json"]) == "encoder_model.onnx"
    assert find_model_file(["encoder_model.onnx", "decoder_model_merged.onnx"]) is not None
    assert find_model_file(["encoder_model.onnx", "other.onnx"]) is None
    assert find_model_file([f"onnx/{name}" for name in exported]) == "onnx/encoder_model.onnx"
    assert find_model_file(["onnx/net.onnx", "samples/odd.onnx"]) == "onnx/net.onnx"
    assert find_model_file(["model.onnx", "onnx/net.onnx"]) == "model.onnx"
    assert find_model_file(["deeper/onnx/net.onnx"]) is None


def test_a_version_may_keep_its_graphs_in_a_folder_of_its_own():
    nested = Listing(frozenset({"config.json", "onnx/encoder_model.onnx"}), frozenset({"onnx"}))
    assert version_folders(Listing(frozenset(), frozenset({"2"})), {"2": nested}) == {"2": ("2",)}
