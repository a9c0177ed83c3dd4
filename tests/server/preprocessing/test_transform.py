"""The transform beside its slow twin: one step after the other, in float64, as it reads."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image

from server.errors import LoadFailed, PayloadTooLarge
from server.model_config import PreprocessConfig
from server.preprocessing import ImageLimits, build_transform, decode_image
from server.preprocessing.geometry import SizePlan, scale_short_side
from server.preprocessing.resample import FILTERS
from server.preprocessing.transform import border_brightness
from tests.server.preprocessing.pictures import encode, four_corners, gradient, noise

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


def run(picture, shape=("N", 3, "H", "W"), dtype="float32", limits=None, **keys) -> np.ndarray:
    transform = build_transform(PreprocessConfig(**keys), "x", dtype, shape, limits)
    return transform(transform.decode(encode(picture)))


def slow_twin(pixels: np.ndarray, config: PreprocessConfig) -> np.ndarray:
    """Return (C, H, W) or (H, W, C) by torchvision's steps on a PIL image."""
    image = Image.fromarray(pixels).convert("L" if config.mode == "L" else "RGB")
    if config.resize:
        image = image.resize(config.resize[::-1], FILTERS[config.resample])
    if config.resize_short:
        width, height = image.size
        short, long = sorted((width, height))
        longer = int(config.resize_short * long / short)
        size = (config.resize_short, longer) if width <= height else (longer, config.resize_short)
        image = image.resize(size, FILTERS[config.resample])
    array = np.asarray(image)
    array = array.reshape(*array.shape[:2], -1)  # (H, W, C)
    if config.invert == "always":
        array = 255 - array
    if config.crop:
        array = centre_crop(array, *config.crop)
    if config.mode == "BGR":
        array = array[..., ::-1]
    values = (array.astype(np.float64) * config.scale - config.mean) / config.std
    return values if config.layout == "NHWC" else values.transpose(2, 0, 1)


def centre_crop(array: np.ndarray, height: int, width: int) -> np.ndarray:
    """Pad with zeros, then cut, as torchvision.transforms.functional.center_crop does."""
    have_h, have_w = array.shape[:2]
    more_h, more_w = max(height - have_h, 0), max(width - have_w, 0)
    array = np.pad(
        array,
        ((more_h // 2, (more_h + 1) // 2), (more_w // 2, (more_w + 1) // 2), (0, 0)),
    )
    top = round((array.shape[0] - height) / 2.0)
    left = round((array.shape[1] - width) / 2.0)
    return array[top : top + height, left : left + width]


sides = st.integers(1, 40)
sizes = st.tuples(sides, sides)


@st.composite
def configs(draw) -> PreprocessConfig:
    mode = draw(st.sampled_from(["RGB", "BGR", "L"]))
    keys = {
        "mode": mode,
        "layout": draw(st.sampled_from(["NCHW", "NHWC"])),
        "resample": draw(st.sampled_from(sorted(FILTERS))),
        "invert": draw(st.sampled_from(["never", "always"])),
        "crop": draw(st.none() | sizes),
        "scale": draw(st.sampled_from([1 / 255, 1.0, 1 / 127.5])),
    }
    keys |= draw(
        st.sampled_from([{}, {"resize": (19, 23)}, {"resize": (7, 50)}])
        | st.builds(lambda short: {"resize_short": short}, sides)
    )
    if mode != "L" and draw(st.booleans()):
        keys |= IMAGENET
    return PreprocessConfig(**keys)


@settings(max_examples=120, deadline=None)
@given(sizes, configs(), st.integers(0, 100))
def test_equals_the_slow_twin(size, config, seed):
    pixels = noise(*size, seed)
    shape = ("N", "H", "W", "C") if config.layout == "NHWC" else ("N", "C", "H", "W")
    transform = build_transform(config, "x", "float32", shape)
    got = transform(transform.decode(encode(pixels)))
    expected = slow_twin(pixels, config)
    assert got.shape == (1, *expected.shape)
    assert got.dtype == np.float32
    assert got.flags.c_contiguous
    far = wasteful(config, size)
    # There, ties tip over with filters that have an edge, and what overshoots is clipped twice.
    assume(not far or config.resample in ("bilinear", "hamming"))
    # Where almost all of a resized picture is cut away, only the window is computed: roundings
    # between Pillow's passes then differ by a step or two of 255.
    steps = 4 if far else 1e-3
    tolerance = steps * config.scale / min(config.std)
    np.testing.assert_allclose(got[0], expected, rtol=1e-5, atol=tolerance)


def wasteful(config: PreprocessConfig, size: tuple[int, int]) -> bool:
    height, width = config.resize or scale_short_side(size, config.resize_short or min(size))
    if config.crop is None:
        return False
    return height * width > 4 * min(config.crop[0], height) * min(config.crop[1], width)


def test_imagenet_golden_values():
    got = run(
        np.full((300, 400, 3), (124, 116, 104), np.uint8),
        resize_short=256,
        crop=(224, 224),
        **IMAGENET,
    )
    assert got.shape == (1, 3, 224, 224)
    expected = (np.array([124, 116, 104]) / 255 - IMAGENET["mean"]) / IMAGENET["std"]
    np.testing.assert_allclose(got[0, :, 5, 7], expected, atol=1e-6)


def test_bgr_minus_mean_golden_values():
    got = run(
        np.full((8, 8, 3), (200, 150, 100), np.uint8), mode="BGR", scale=1.0, mean=(104, 117, 123)
    )
    np.testing.assert_array_equal(got[0, :, 0, 0], [-4, 33, 77])


# --- sizes


@pytest.mark.parametrize(
    ("size", "short", "expected"),
    [
        ((480, 640), 256, (256, 341)),  # 341.33 rounds down
        ((640, 480), 256, (341, 256)),
        ((375, 500), 256, (256, 341)),
        ((100, 100), 224, (224, 224)),
        ((427, 640), 256, (256, 383)),  # 383.7 rounds down, too
        ((1, 1000), 2, (2, 2000)),
    ],
)
def test_the_longer_side_is_rounded_down(size, short, expected):
    assert scale_short_side(size, short) == expected


def test_an_odd_cut_starts_at_the_half_rounded_to_even():
    plan = SizePlan(crop=(2, 2))
    assert plan.apply((5, 7)).window[:2] == (2, 2)  # 1.5 -> 2, 2.5 -> 2


def test_padding_is_split_with_the_odd_pixel_at_the_end():
    got = run(np.full((1, 2, 3), 255, np.uint8), crop=(4, 5))
    expected = np.zeros((4, 5))
    expected[1, 1:3] = 1.0
    np.testing.assert_allclose(got[0, 0], expected)


def test_inverted_pictures_are_padded_with_background():
    got = run(np.full((2, 2, 3), 255, np.uint8), crop=(4, 4), invert="always")
    assert (got == 0).all()


def test_the_models_own_size_is_used_where_none_is_set():
    assert run(noise(50, 70), ("N", 3, 32, 24)).shape == (1, 3, 32, 24)
    got = run(gradient(50, 100), ("N", 3, 32, 32), resize_short=32)
    expected = run(gradient(50, 100), resize_short=32, crop=(32, 32))
    np.testing.assert_array_equal(got, expected)


def test_without_any_size_pictures_keep_theirs():
    assert run(noise(13, 17)).shape == (1, 3, 13, 17)


def test_a_thin_picture_costs_no_more_than_its_crop():
    got = run(noise(1, 20_000), resize_short=256, crop=(224, 224))  # 5 million pixels wide
    assert got.shape == (1, 3, 224, 224)


def test_a_thin_picture_that_would_become_huge_is_refused():
    with pytest.raises(PayloadTooLarge, match="resized to 5120000 x 256"):
        run(noise(1, 20_000), resize_short=256)


# --- antialias


def test_without_antialias_bilinear_equals_a_loop_over_four_neighbours():
    pixels = noise(23, 31)
    got = run(pixels, resize=(9, 50), antialias=False, scale=1.0)
    expected = np.empty((9, 50, 3))
    for row in range(9):
        for column in range(50):
            y = min(max((row + 0.5) * 23 / 9 - 0.5, 0), 22)
            x = min(max((column + 0.5) * 31 / 50 - 0.5, 0), 30)
            top, left = int(y), int(x)
            below, right = min(top + 1, 22), min(left + 1, 30)
            upper = pixels[top, left] * (1 - x + left) + pixels[top, right] * (x - left)
            lower = pixels[below, left] * (1 - x + left) + pixels[below, right] * (x - left)
            expected[row, column] = upper * (1 - y + top) + lower * (y - top)
    np.testing.assert_allclose(got[0].transpose(1, 2, 0), expected, atol=0.5001)


@pytest.mark.parametrize("name", sorted(FILTERS))
def test_antialias_makes_no_difference_when_growing(name):
    pixels = gradient(20, 30)
    keys = {"resize": (50, 64), "resample": name, "scale": 1.0}
    with_it = run(pixels, antialias=True, **keys)
    without = run(pixels, antialias=False, **keys)
    np.testing.assert_allclose(with_it, without, atol=1.0)  # Pillow rounds after each axis


@pytest.mark.parametrize("name", sorted(FILTERS))
def test_without_antialias_a_crop_is_a_piece_of_the_whole(name):
    keys = {"resample": name, "antialias": False, "scale": 1.0}
    whole = run(noise(64, 48), resize_short=20, **keys)
    piece = run(noise(64, 48), resize_short=20, crop=(10, 10), **keys)
    np.testing.assert_array_equal(piece, whole[:, :, 8:18, 5:15])


def test_shrinking_with_antialias_averages_and_without_does_not():
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    smooth = run(stripes, resize=(8, 8), resample="box")
    rough = run(stripes, resize=(8, 8), resample="nearest")
    assert np.abs(smooth - 0.5).max() < 0.01
    assert set(np.unique(rough)) <= {0.0, 1.0}


def test_a_scaled_jpeg_decode_is_close_to_the_full_one():
    data = encode(gradient(900, 1201), "JPEG", quality=95)
    transform = build_transform(
        PreprocessConfig(resize_short=100, crop=(90, 90)), "x", "float32", ("N", 3, 90, 90)
    )
    assert transform.cover == (100, 100)
    scaled = transform(transform.decode(data))
    full = transform(decode_image(data, ImageLimits()))
    assert np.abs(scaled - full).max() < 4 / 255
    assert np.abs(scaled - full).mean() < 1 / 255


@pytest.mark.parametrize("keys", [{"antialias": False}, {"resample": "nearest"}, {}])
def test_where_single_pixels_count_jpegs_are_decoded_whole(keys):
    config = PreprocessConfig(**(keys or {"crop": (4, 4)}), **({"resize": (8, 8)} if keys else {}))
    assert build_transform(config, "x", "float32", ("N", 3, "H", "W")).cover is None


# --- modes, layouts, types


def test_the_models_shape_decides_mode_and_layout_where_they_are_not_set():
    assert run(gradient(9, 9), ("N", 1, 9, 9)).shape == (1, 1, 9, 9)
    assert run(gradient(9, 9), ("N", 9, 9, 3)).shape == (1, 9, 9, 3)
    assert run(gradient(9, 9), (1, 9, 9, 1)).shape == (1, 9, 9, 1)
    assert run(gradient(9, 9), ("N", 9, 9)).shape == (1, 9, 9)
    assert run(gradient(9, 9), ("N", "H", "W")).shape == (1, 9, 9, 1)


def test_flat_inputs():
    picture = gradient(28, 28)
    flat = run(picture, ("N", 784), resize=(28, 28))
    np.testing.assert_array_equal(flat, run(picture, ("N", 1, 28, 28)).reshape(1, 784))
    assert run(picture, ("N", 48), resize=(4, 4)).shape == (1, 48)
    assert run(picture, ("N", "F"), resize=(4, 4), mode="L").shape == (1, 16)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_floats_of_every_width(dtype):
    picture = noise(6, 6)
    got = run(picture, dtype=dtype, **IMAGENET)
    assert got.dtype == dtype
    wide = run(picture, dtype="float64", **IMAGENET)
    np.testing.assert_allclose(got, wide, atol={"float16": 2e-3}.get(dtype, 1e-6))


@pytest.mark.parametrize("dtype", ["uint8", "int32", "int64"])
def test_integer_inputs_take_pixels_as_they_are(dtype):
    picture = noise(6, 6)
    got = run(picture, dtype=dtype, layout="NHWC", shape=("N", 6, 6, 3))
    assert got.dtype == dtype
    np.testing.assert_array_equal(got[0], picture)


def test_int8_with_a_mean():
    got = run(noise(6, 6), dtype="int8", mean=(128,))
    np.testing.assert_array_equal(got[0].transpose(1, 2, 0), noise(6, 6).astype(int) - 128)


# --- invert


def digit(paper: int, ink: int) -> np.ndarray:
    picture = np.full((28, 28, 3), paper, np.uint8)
    picture[4:24, 13:16] = ink
    picture[0, 13:16] = ink  # it may touch the border
    return picture


def test_auto_inverts_dark_ink_on_light_paper_only():
    light, dark = digit(250, 5), digit(5, 250)
    np.testing.assert_allclose(run(light, invert="auto"), run(dark, invert="auto"), atol=1e-6)
    np.testing.assert_array_equal(run(dark, invert="auto"), run(dark, invert="never"))
    np.testing.assert_allclose(
        run(light, invert="always"), 1 - run(light, invert="never"), atol=1e-6
    )


def test_border_brightness_of_the_smallest_pictures():
    assert border_brightness(np.full((1, 1, 3), 9, np.uint8)) == 9
    assert border_brightness(np.full((1, 5, 1), 9, np.uint8)) == 9
    assert border_brightness(four_corners(2, 2)) == pytest.approx(85.0)


# --- what cannot be


@pytest.mark.parametrize(
    ("keys", "shape", "dtype", "message"),
    [
        ({"resize": (8, 8)}, ("N", 3, 8, 9), "float32", "width of 9"),
        ({"crop": (7, 8)}, ("N", 3, 8, 8), "float32", "height of 8"),
        ({"mode": "L"}, ("N", 3, 8, 8), "float32", "has 3 channels"),
        ({"mode": "RGB"}, ("N", 1, 8, 8), "float32", "has 1 channels"),
        ({"layout": "NHWC"}, ("N", 3, 8, 8), "float32", "has 8 channels"),
        ({"mode": "RGB"}, ("N", 8, 8), "float32", "has 1 channels"),
        ({}, ("N", 784), "float32", "is flat"),
        ({"resize": (4, 5)}, ("N", 784), "float32", "wants 784 values"),
        ({}, ("N",), "float32", "cannot hold pictures"),
        ({}, ("N", 3, 4, 8, 8), "float32", r"\(N, 3, 4, 8, 8\)"),
        ({"std": (1.0, 1.0, 1.0)}, ("N", 1, 8, 8), "float32", "`std` has 3 values"),
        ({"scale": float("inf")}, ("N", 3, 8, 8), "float32", "finite"),
        ({"std": (1e-6,)}, ("N", 3, 8, 8), "float16", "float16 input `x` cannot hold"),
        ({"scale": 1 / 255}, ("N", 3, 8, 8), "uint8", "not all whole"),
        ({"mean": (1,)}, ("N", 3, 8, 8), "uint8", "from -1 to 254"),
        ({}, ("N", 3, 8, 8), "object", "numeric"),
        ({}, ("N", 3, 8, 8), "bool", "numeric"),
    ],
)
def test_contradictions_are_found_when_the_model_is_loaded(keys, shape, dtype, message):
    with pytest.raises(LoadFailed, match=message):
        build_transform(PreprocessConfig(**keys), "x", dtype, shape)
