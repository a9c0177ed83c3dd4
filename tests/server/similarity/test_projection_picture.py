"""The map of a collection as a picture."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from server.errors import InvalidInput
from server.preprocessing import Tile, draw_mosaic
from server.similarity.projection_grid import snapped
from server.similarity.projection_picture import (
    GAP,
    HEADING,
    LEAST_SIDE,
    MOST_SIDE,
    cells_for,
    draw_map,
)

RED, BLUE = (200, 30, 40), (20, 60, 210)


def picture(colour: tuple[int, int, int], size: tuple[int, int] = (40, 40)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, "PNG")
    return file.getvalue()


def pixels(png: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(png)) as image:
        assert (image.format, image.mode) == ("PNG", "RGB")
        return np.asarray(image).astype(int)


def of_colour(shown: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    return (np.abs(shown - colour) <= 2).all(-1)


@given(st.integers(1, 60), st.integers(1, 12), st.integers(1, 5), st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_no_two_points_share_a_cell(n: int, cells: int, reach: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    points = (rng.normal(size=(n, 2)) * rng.choice([0.01, 0.5, 3])).astype(np.float32)
    found = snapped(points, cells, reach)
    shown = found[found[:, 0] >= 0]
    assert len({tuple(cell) for cell in shown.tolist()}) == len(shown)
    assert ((shown >= 0) & (shown < cells)).all()
    assert (found[found[:, 0] < 0] == -1).all()
    if n <= cells * cells and reach >= cells:
        assert len(shown) == n
    own = np.clip(np.floor((np.clip(points, -1, 1) * [1, -1] + 1) / 2 * cells), 0, cells - 1)
    assert np.abs(found - own)[found[:, 0] >= 0].max(initial=0) <= reach + 1


def test_a_point_gets_its_own_cell_and_up_is_up() -> None:
    points = np.array([[-1, 1], [1, 1], [0.1, -0.9]], np.float32)
    assert snapped(points, 4).tolist() == [[0, 0], [3, 0], [2, 3]]


def test_the_nearer_point_keeps_the_cell_and_the_other_moves_next_to_it() -> None:
    points = np.array([[0.2, 0.0], [0.01, 0.0]], np.float32)
    assert snapped(points, 5).tolist() == [[3, 2], [2, 2]]


def test_thumbnails_stand_where_their_points_are() -> None:
    points = np.array([[-1, 1], [1, -1]], np.float32)
    shown = pixels(draw_map(points, [picture(RED), picture(BLUE)], 320))
    assert shown.shape == (320 + HEADING, 320, 3)
    red, blue = (np.argwhere(of_colour(shown, colour)) for colour in (RED, BLUE))
    assert red.max(0).tolist() < [HEADING + 160, 160] and red[:, 1].max() < 160
    assert blue[:, 0].min() > HEADING + 160 and blue[:, 1].min() > 160


def test_no_thumbnail_covers_another() -> None:
    rng = np.random.default_rng(0)
    points = np.clip(rng.normal(size=(30, 2)) / 4, -1, 1).astype(np.float32)
    shown = pixels(draw_map(points, [picture(RED)] * 30, 640))
    side = 640 // cells_for(30, 640) - GAP
    assert of_colour(shown, RED).sum() == 30 * side * side


def test_shapes_of_pictures_are_kept() -> None:
    shown = of_colour(pixels(draw_map([[0, 0]], [picture(RED, (80, 20))], 256)), RED)
    rows, columns = np.argwhere(shown).T
    assert np.ptp(columns) + 1 == pytest.approx(4 * (np.ptp(rows) + 1), abs=4)


def test_what_has_no_picture_becomes_a_dot() -> None:
    points = np.array([[-1, 1], [1, 1], [1, -1]], np.float32)
    empty = pixels(draw_map([], [], 256))[HEADING:]
    assert (empty == 255).all()
    shown = pixels(draw_map(points, [None, b"no picture", picture(RED)[:40]], 256))[HEADING:]
    quarters = shown[:128, :128], shown[:128, 128:], shown[128:, 128:]
    assert all((quarter != 255).any() for quarter in quarters)
    assert (shown[128:, :128] == 255).all()


def test_the_heading_tells_title_and_count() -> None:
    bare = pixels(draw_map([], [], 512))[:HEADING]
    titled = pixels(draw_map([], [], 512, "holidays"))[:HEADING]
    assert (bare[:, :200] != titled[:, :200]).any()
    assert (bare[:, 300:] == titled[:, 300:]).all()  # the count, on the right
    long = pixels(draw_map([], [], 512, "h" * 3000))[:HEADING]
    assert (long[:, :200] != bare[:, :200]).any()
    counted = bare[:, 300:] != titled.max()
    assert counted.any()
    assert ((bare != long).any((0, 2)).nonzero()[0]).max() < 512 - HEADING // 3


def test_a_dense_crowd_is_thinned_and_the_heading_says_so() -> None:
    crowd = np.zeros((700, 2), np.float32)
    shown = pixels(draw_map(crowd, [picture(RED, (4, 4))] * 700, 256))
    cells = cells_for(700, 256)
    assert 0 < of_colour(shown, RED).sum() < 700 * (256 // cells - GAP) ** 2
    other = pixels(draw_map(crowd[:1], [picture(RED, (4, 4))], 256))
    assert (shown[:HEADING] != other[:HEADING]).any()


@pytest.mark.parametrize("items", [0, 1, 50, 1000, 10**6])
@pytest.mark.parametrize("size", [256, 1200, 4096])
def test_thumbnails_stay_within_their_bounds(items: int, size: int) -> None:
    assert LEAST_SIDE <= size / cells_for(items, size) <= MOST_SIDE


@pytest.mark.parametrize("size", [0, -5, 255, 4097])
def test_sizes_out_of_bounds_are_refused(size: int) -> None:
    with pytest.raises(InvalidInput, match="256 to 4096"):
        draw_map([], [], size)


@pytest.mark.parametrize("points", [[[0, 0], [1, 1]], [[0, 0, 0]], [[np.nan, 0]], [0.0]])
def test_points_that_do_not_fit_are_refused(points: list[list[float]]) -> None:
    with pytest.raises(InvalidInput, match=r"\(1, 2\)"):
        draw_map(points, [None])


def test_a_mosaic_without_a_heading_is_only_tiles() -> None:
    shown = pixels(draw_mosaic([Tile(10, 5, 8, picture(RED))], 40, 30, title="unseen"))
    expected = np.full((30, 40, 3), 255)
    expected[5:13, 10:18] = RED
    assert np.array_equal(shown, expected)


def test_a_title_without_room_is_left_out() -> None:
    narrow = draw_mosaic([], 60, 40, heading=40, title="a title", note="a long note of many words")
    assert pixels(narrow).shape == (40, 60, 3)
