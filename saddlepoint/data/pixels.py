"""From the bytes of one image file to uint8 [C, H, W]: decoding, orientation, fitting, transparency, channels."""

from __future__ import annotations

import io
import warnings

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from .options import BACKGROUNDS, Options

Pixels = NDArray[np.uint8]
_ORIENTATION = 0x0112  # the EXIF tag; values 5 to 8 turn the image by a quarter
_MODES = {"1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr"}


class ImageError(Exception):
    """An image that cannot be used; the message says why, as the end of the sentence "NAME ..."."""


def open_image(data: bytes) -> Image.Image:
    """The image in `data`, header only: pixels are decoded when first needed.

    Raises ImageError for anything but an image that Pillow can read and for sizes beyond Pillow's bomb limit
    (89 megapixels).
    """
    if not data:
        raise ImageError("is empty (0 bytes)")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data))
    except UnidentifiedImageError:
        raise ImageError("is not an image in a known format") from None
    except Exception as error:  # a decoder fed foreign bytes may raise anything
        raise ImageError(f"cannot be opened: {error}") from error
    if image.mode not in _MODES and not image.mode.startswith("I;16"):
        raise ImageError(f"has mode {image.mode}; expected 8 or 16 bit grey, RGB, RGBA, CMYK or a palette")
    return image


def size_of(image: Image.Image) -> tuple[int, int]:
    """(height, width) once turned upright; decodes nothing. Raises ImageError for damaged EXIF data."""
    try:  # for PNG, getexif() would decode the pixels to look for a chunk behind them
        exif = image.getexif() if image.format != "PNG" or "exif" in image.info else {}
        turned = exif.get(_ORIENTATION, 1) in (5, 6, 7, 8)
    except Exception as error:
        raise ImageError(f"has damaged EXIF data: {error}") from error
    return (image.width, image.height) if turned else (image.height, image.width)


def is_grey(image: Image.Image) -> bool:
    """Whether the file stores no colour."""
    return image.mode in ("1", "L", "LA", "La") or image.mode.startswith("I;16")


def decode(image: Image.Image) -> Image.Image:
    """The image upright, its pixels in mode L, RGB or RGBA. Raises ImageError when the pixels are damaged."""
    try:
        image = ImageOps.exif_transpose(image)
        if image.mode.startswith("I;16"):
            wide = np.asarray(image).astype(np.float32)
            image = Image.fromarray(np.rint(wide / 257).astype(np.uint8))  # 65535 = 255 * 257
        if image.has_transparency_data:
            return image.convert("RGBA")
        return image.convert("L" if is_grey(image) else "RGB")
    except Exception as error:  # a decoder fed foreign bytes may raise anything
        raise ImageError(f"cannot be decoded: {error}") from error


def _fitted(image: Image.Image, options: Options) -> Image.Image:
    """`image` in the size of `options`; Lanczos, which also filters before it shrinks, and respects alpha."""
    size = (options.width, options.height)  # Pillow's order
    if image.size == size:
        return image
    if options.fit == "stretch":
        return image.resize(size, Image.Resampling.LANCZOS)
    if options.fit == "crop":
        return ImageOps.fit(image, size, Image.Resampling.LANCZOS)
    if options.fit == "resize" or image.width > options.width or image.height > options.height:
        image = ImageOps.contain(image, size, Image.Resampling.LANCZOS)
    shade = BACKGROUNDS[options.background]
    fill: tuple[int, ...] = (0, 0, 0, 0) if image.mode == "RGBA" else (shade,) * len(image.getbands())
    canvas = Image.new(image.mode, size, fill)
    canvas.paste(image, ((size[0] - image.width) // 2, (size[1] - image.height) // 2))
    return canvas


def to_pixels(image: Image.Image, options: Options) -> Pixels:
    """uint8 [C, H, W] of an image, for options that are settled. Raises ImageError when the pixels are damaged."""
    image = _fitted(decode(image), options)
    if options.channels == 4:
        pixels = np.asarray(image.convert("RGBA"))
    else:
        if image.mode == "RGBA":
            canvas = Image.new("RGBA", image.size, (BACKGROUNDS[options.background],) * 3 + (255,))
            image = Image.alpha_composite(canvas, image)
        pixels = np.asarray(image.convert("L" if options.channels == 1 else "RGB"))
    return np.atleast_3d(pixels).transpose(2, 0, 1).copy()  # [C, H, W]


# ---- maps: whole numbers instead of colours
VOID = 255  # what a padded pixel is: no class, by the custom of label maps


def to_planes(image: Image.Image, options: Options) -> Pixels:
    """uint8 [4, H, W]: the bytes of one int32 per pixel (see `from_planes`), fitted like a picture but to the nearest.

    Palette images give their indices, 16-bit ones their numbers. Raises ImageError for colours that are not grey.
    """
    try:
        image = ImageOps.exif_transpose(image)
        numbers = np.asarray(image).astype(np.int32)
    except Exception as error:  # a decoder fed foreign bytes may raise anything
        raise ImageError(f"cannot be decoded: {error}") from error
    if numbers.ndim == 3:
        colours = numbers[:, :, : 1 if numbers.shape[2] == 2 else 3]
        if (colours != colours[:, :, :1]).any():
            raise ImageError("has colours; expected a map of one whole number per pixel")
        numbers = colours[:, :, 0]
    planes = np.ascontiguousarray(numbers).view(np.uint8).reshape(*numbers.shape, 4)  # little-endian, as all our hosts
    fitted = [_nearest(Image.fromarray(planes[:, :, i]), options, VOID if i == 0 else 0) for i in range(4)]
    return np.stack(fitted)


def _nearest(plane: Image.Image, options: Options, fill: int) -> Pixels:
    """One plane in the size of `options` without mixing numbers; the places are those of `_fitted`."""
    size = (options.width, options.height)
    if plane.size == size:
        return np.asarray(plane)
    method = Image.Resampling.NEAREST
    if options.fit == "stretch":
        return np.asarray(plane.resize(size, method))
    if options.fit == "crop":
        return np.asarray(ImageOps.fit(plane, size, method))
    if options.fit == "resize" or plane.width > options.width or plane.height > options.height:
        plane = ImageOps.contain(plane, size, method)
    canvas = Image.new("L", size, fill)
    canvas.paste(plane, ((size[0] - plane.width) // 2, (size[1] - plane.height) // 2))
    return np.asarray(canvas)


def from_planes(planes: Pixels) -> NDArray[np.int32]:
    """int32 [..., H, W] of uint8 [..., 4, H, W]."""
    wide = planes.astype(np.uint32)
    shifts = np.array([0, 8, 16, 24], np.uint32)[:, None, None]
    return (wide << shifts).sum(-3, dtype=np.uint32).astype(np.int32)
