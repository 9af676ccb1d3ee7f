from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from saddlepoint.data.options import Options
from saddlepoint.data.pixels import ImageError, open_image, size_of, to_pixels


def saved(image: Image.Image, kind: str = "PNG", **options: object) -> Image.Image:
    """The image as a file gives it back."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return open_image(buffer.getvalue())


def options_for(image: Image.Image, channels: int, background: str = "white") -> Options:
    return Options(image.height, image.width, channels, "crop", background)


def test_plain_modes_come_through_untouched(picture):
    for mode, channels in (("L", 1), ("RGB", 3), ("RGBA", 4)):
        image = picture(0, 5, 3, mode)
        expected = np.atleast_3d(np.asarray(image)).transpose(2, 0, 1)  # [C, H, W]
        found = to_pixels(saved(image), options_for(image, channels))
        assert found.dtype == np.uint8 and np.array_equal(found, expected)


@pytest.mark.parametrize(("background", "shade"), [("white", 255), ("black", 0), ("grey", 128)])
def test_transparency_shows_the_background(background: str, shade: int):
    image = Image.fromarray(np.array([[[200, 100, 0, 255], [200, 100, 0, 0], [200, 100, 0, 51]]], np.uint8))
    found = to_pixels(saved(image), options_for(image, 3, background))[:, 0].T  # [W, C]
    mixed = [0.2 * value + 0.8 * shade for value in (200, 100, 0)]  # 51 / 255 is a fifth
    assert found[0].tolist() == [200, 100, 0] and found[1].tolist() == [shade] * 3
    assert np.abs(found[2] - mixed).max() <= 1


def test_palette_bilevel_grey_alpha_and_cmyk():
    palette = Image.new("P", (2, 1))
    palette.putpalette([255, 0, 0, 0, 0, 255])
    palette.putdata([0, 1])
    assert to_pixels(saved(palette), options_for(palette, 3))[:, 0].T.tolist() == [[255, 0, 0], [0, 0, 255]]
    see_through = saved(palette, transparency=0)
    assert to_pixels(see_through, options_for(palette, 3))[:, 0].T.tolist() == [[255, 255, 255], [0, 0, 255]]
    bits = Image.fromarray(np.array([[0, 255]], np.uint8)).convert("1")
    assert to_pixels(saved(bits), options_for(bits, 1)).tolist() == [[[0, 255]]]
    veiled = Image.fromarray(np.array([[[10, 255], [10, 0]]], np.uint8), "LA")
    assert to_pixels(saved(veiled), options_for(veiled, 1)).tolist() == [[[10, 255]]]
    inks = Image.new("CMYK", (1, 1), (255, 0, 0, 0))
    assert to_pixels(saved(inks, "TIFF"), options_for(inks, 3)).ravel().tolist() == [0, 255, 255]


def test_sixteen_bits_are_scaled_not_cut():
    image = Image.fromarray(np.array([[0, 257, 32768, 65535, 128, 129]], np.uint16))
    found = to_pixels(saved(image), options_for(image, 1))
    assert found.tolist() == [[[0, 1, 128, 255, 0, 1]]]  # 32768 / 257 = 127.5019


@pytest.mark.parametrize("turn", range(1, 9))
def test_exif_orientation(picture, turn: int):
    upright = np.arange(6, dtype=np.uint8).reshape(2, 3) * 40
    stored = {  # how a camera that was turned so would have stored it
        1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1], 5: upright.T,
        6: np.rot90(upright), 7: upright[::-1, ::-1].T, 8: np.rot90(upright, -1),
    }[turn]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = turn
    image = saved(Image.fromarray(np.ascontiguousarray(stored)), "PNG", exif=exif)
    assert size_of(image) == (2, 3)
    assert to_pixels(image, Options(2, 3, 1)).tolist() == [upright.tolist()]


def test_only_the_first_frame_of_an_animation(picture):
    first, second = Image.new("RGB", (4, 4), (255, 0, 0)), Image.new("RGB", (4, 4), (0, 255, 0))
    film = saved(first, "GIF", save_all=True, append_images=[second])
    assert film.n_frames == 2
    assert to_pixels(film, options_for(first, 3))[:, 0, 0].tolist() == [255, 0, 0]


def test_padding_does_not_resample(picture):
    image = picture(0, 28, 28, "L")
    found = to_pixels(image, Options(32, 32, 1, "pad", "black"))[0]
    assert np.array_equal(found[2:30, 2:30], np.asarray(image))
    found[2:30, 2:30] = 0
    assert not found.any()


def test_fits_by_hand():
    stripes = Image.fromarray(np.repeat(np.array([[10] * 4 + [90] * 4 + [200] * 4], np.uint8), 4, axis=0))  # 4 x 12
    crop = to_pixels(stripes, Options(4, 4, 1, "crop", "black"))[0]
    assert (crop == 90).all()
    pad = to_pixels(stripes, Options(6, 14, 1, "pad", "grey"))[0]
    assert np.array_equal(pad[1:5, 1:13], np.asarray(stripes)) and (pad[0] == 128).all() and (pad[:, 13] == 128).all()
    resize = to_pixels(stripes, Options(24, 24, 1, "resize", "white"))[0]
    assert (resize[:8] == 255).all() and (resize[16:] == 255).all()
    assert (resize[8:16, 0] == 10).all() and (resize[8:16, 23] == 200).all()
    stretch = to_pixels(stripes, Options(3, 3, 1, "stretch", "black"))[0]
    assert np.abs(stretch.astype(int) - [10, 90, 200]).max() <= 12  # Lanczos rings a little
    assert to_pixels(stripes, Options(2, 6, 1, "pad", "black")).shape == (1, 2, 6)  # too large: shrunk


def test_a_see_through_pixel_does_not_bleed_when_resized():
    image = np.zeros((8, 8, 4), np.uint8)
    image[:, :4] = (0, 0, 255, 255)
    image[:, 4:] = (255, 0, 0, 0)  # red that nobody should see
    found = to_pixels(Image.fromarray(image), Options(4, 4, 3, "stretch", "black"))
    assert found[0].max() == 0


@given(
    shade=st.integers(0, 255),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    to=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    fit=st.sampled_from(["crop", "stretch"]),
    channels=st.sampled_from([1, 3, 4]),
)
def test_one_shade_stays_that_shade(shade, size, to, fit, channels):
    image = Image.new("RGB", size, (shade,) * 3)
    found = to_pixels(image, Options(*to, channels, fit, "white"))
    assert found.shape == (channels, *to)
    assert (found[:3] == shade).all() and (channels < 4 or (found[3] == 255).all())


def test_bad_bytes_are_named(broken):
    for name, (data, word) in broken.items():
        with pytest.raises(ImageError, match=word):
            to_pixels(open_image(data), Options(6, 6, 3, "crop", "white"))
        assert name


@given(st.binary(max_size=200), st.integers(0, 2))
def test_no_bytes_raise_anything_else(noise: bytes, kind: int):
    start = (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", b"\xff\xd8\xff\xe0", b"GIF89a")[kind]
    try:
        image = open_image(start + noise)
        size_of(image)
        to_pixels(image, Options(4, 4, 3, "crop", "white"))
    except ImageError:
        pass
