"""Resizes against the facts that tell them apart, naive loops, Pillow and clean-fid's own code."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from saddlepoint.errors import UserError
from saddlepoint.metrics import resize

STEP = torch.tensor([0.0, 1.0]).view(1, 1, 1, 2)  # one row of two pixels


def row(images: Tensor) -> list[float]:
    return images[0, 0, 0].tolist()


def test_the_two_bilinears_differ_where_they_are_known_to() -> None:
    wide = STEP.expand(1, 1, 2, 2)
    assert row(resize.tf_bilinear(wide, 4)) == [0.0, 0.5, 1.0, 1.0]
    assert row(resize.pytorch_bilinear(wide, 4)) == [0.0, 0.25, 0.75, 1.0]


def naive_tf(image: np.ndarray, side: int) -> np.ndarray:
    """Pixel by pixel, in float32, as the kernel of TensorFlow 1 is described."""
    one = np.float32
    height, width = image.shape
    found = np.zeros((side, side), one)
    for i in range(side):
        y = one(i) * (one(height) / one(side))
        top = int(np.floor(y))
        bottom, dy = min(top + 1, height - 1), one(y - one(top))
        for j in range(side):
            x = one(j) * (one(width) / one(side))
            left = int(np.floor(x))
            right, dx = min(left + 1, width - 1), one(x - one(left))
            upper = image[top, left] + (image[top, right] - image[top, left]) * dx
            lower = image[bottom, left] + (image[bottom, right] - image[bottom, left]) * dx
            found[i, j] = upper + (lower - upper) * dy
    return found


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 45), st.integers(0, 2**31))
def test_tf_bilinear_is_bit_for_bit_the_kernel(height: int, width: int, side: int, seed: int) -> None:
    image = np.random.default_rng(seed).integers(0, 256, (height, width)).astype(np.float32)
    found = resize.tf_bilinear(torch.from_numpy(image)[None, None], side)[0, 0].numpy()
    np.testing.assert_array_equal(found, naive_tf(image, side))


@pytest.mark.parametrize("shape", [(32, 32), (48, 300), (400, 320)])
def test_tf_bilinear_is_the_affine_grid_of_nvidias_file(shape: tuple[int, int]) -> None:
    """NVIDIA's TorchScript shifts a half-pixel grid by 1/size - 1/299: the same samples up to rounding."""
    x = torch.rand(1, 3, *shape, generator=torch.Generator().manual_seed(0)) * 255
    theta = torch.eye(2, 3)
    theta[0, 2] = 1 / shape[1] - 1 / 299
    theta[1, 2] = 1 / shape[0] - 1 / 299
    grid = F.affine_grid(theta[None], [1, 3, 299, 299], align_corners=False)
    sampled = F.grid_sample(x, grid, "bilinear", "border", align_corners=False)
    assert (resize.tf_bilinear(x, 299) - sampled).abs().max() < 0.05  # of 255; grid_sample's coordinates are rounded


def test_clean_bicubic_is_clean_fids() -> None:
    module = pytest.importorskip("cleanfid.resize")
    images = np.random.default_rng(0).integers(0, 256, (2, 37, 61, 3)).astype(np.uint8)
    theirs = np.stack([module.build_resizer("clean")(image) for image in images])
    ours = resize.clean_bicubic(torch.from_numpy(images).permute(0, 3, 1, 2), 299)
    np.testing.assert_array_equal(ours.permute(0, 2, 3, 1).numpy(), theirs)
    legacy = np.stack([module.build_resizer("legacy_pytorch")(image) for image in images])
    half_pixel = resize.pytorch_bilinear(torch.from_numpy(images).permute(0, 3, 1, 2), 299)
    np.testing.assert_array_equal(half_pixel.permute(0, 2, 3, 1).numpy(), legacy)


@pytest.mark.parametrize("kind", ["clean", "bicubic"])
def test_antialias_keeps_the_sum_of_an_impulse_and_plain_bilinear_loses_it(kind: str) -> None:
    # All 16 places of an impulse in a block of 4 x 4, reduced fourfold: an antialiased resize keeps 1/16 of its sum.
    # Values start at 100, so that the negative lobes of the cubic are not clipped.
    for dy in range(4):
        for dx in range(4):
            x = torch.full((1, 1, 64, 64), 100.0)
            x[0, 0, 32 + dy, 32 + dx] += 100
            kept = resize.resizer(kind)(x, 16).sum() - 100 * 256
            assert kept == pytest.approx(100 / 16, rel=0.02)
    x = torch.zeros(1, 1, 64, 64)
    x[0, 0, 33, 33] = 100
    assert resize.tf_bilinear(x, 16).sum() == 0  # samples at multiples of 4: the impulse is not seen


@pytest.mark.parametrize(("size", "side"), [((20, 31), 48), ((64, 80), 32)])
def test_bicubic_is_pillows_up_to_rounding(size: tuple[int, int], side: int) -> None:
    image = np.random.default_rng(1).integers(0, 256, size).astype(np.float32)
    theirs = np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC)).clip(0, 255)
    ours = resize.bicubic(torch.from_numpy(image)[None, None], side)[0, 0].numpy()
    np.testing.assert_allclose(ours, theirs, atol=2e-2)


@given(st.integers(0, 255))
def test_bytes_survive_the_way_to_floats_and_back(value: int) -> None:
    x = torch.full((1, 1, 1, 1), value / 127.5 - 1)
    assert resize.rounded(x).item() == value


def test_rounding_is_nvidias_and_clips() -> None:
    x = torch.tensor([-2.0, -1.0, 0.0, 0.0039, 0.004, 1.0, 2.0]).view(1, 1, 1, -1)
    assert row(resize.rounded(x)) == [0, 0, 128, 128, 128, 255, 255]
    assert resize.rounded(torch.full((1, 1, 1, 1), 0.0079)).item() == 129  # floor(127.5 x + 128)


def test_channels() -> None:
    grey = torch.rand(2, 1, 3, 3)
    assert torch.equal(resize.to_channels(grey, 3), grey.repeat(1, 3, 1, 1))
    colour = torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1)
    assert resize.to_channels(colour, 1).item() == pytest.approx(0.299)
    assert resize.to_channels(colour, 3) is colour


@pytest.mark.parametrize(
    ("images", "told"),
    [
        (torch.zeros(3, 8, 8), r"\[3, 8, 8\]"),
        (torch.zeros(2, 4, 8, 8), "1 or 3 channels"),
        (torch.zeros(2, 3, 8, 8, dtype=torch.uint8), "uint8"),
        (torch.full((2, 3, 8, 8), float("nan")), "NaN"),
        (np.zeros((2, 3, 8, 8), np.float32), "ndarray"),
    ],
)
def test_what_is_no_batch_of_images_is_told(images: Tensor, told: str) -> None:
    with pytest.raises(UserError, match=told):
        resize.check_images(images)


def test_an_unknown_resize_names_the_nearest() -> None:
    with pytest.raises(UserError, match="'bicubic'"):
        resize.resizer("bicubc")
