import numpy as np
import pytest

from recipes.digits.strokes import HANDS, draw_set, smooth


@pytest.mark.parametrize("hand", sorted(HANDS))
def test_digits_lie_inside_the_picture_and_have_ink(hand: str) -> None:
    images, labels = draw_set(HANDS[hand], 40, seed=3)
    assert images.shape == (40, 28, 28)
    assert np.bincount(labels).tolist() == [4] * 10
    assert (images.reshape(40, -1).max(1) > 80).all()
    edges = np.concatenate([images[:, 0], images[:, -1], images[:, :, 0], images[:, :, -1]], 1)
    assert edges.mean() < 12


def test_the_same_seed_draws_the_same_digits() -> None:
    first, second = (draw_set(HANDS["thin"], 10, seed=1)[0] for _ in range(2))
    assert np.array_equal(first, second)
    assert not np.array_equal(first, draw_set(HANDS["thin"], 10, seed=2)[0])


def test_thick_pens_leave_more_ink_than_thin_ones() -> None:
    thin, thick = (draw_set(HANDS[hand], 50, seed=1)[0].mean() for hand in ("thin", "thick"))
    assert thick > 2 * thin


def test_a_curve_passes_through_its_control_points() -> None:
    points = np.array([[0.0, 0.0], [1.0, 2.0], [3.0, 1.0]])
    curve = smooth(points, steps=10)
    assert np.allclose(curve[::10], points)
