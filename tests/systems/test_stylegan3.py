"""StyleGAN3: the plan of its layers, its filters, what its input does, and how it moves."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from saddlepoint import recipes, tracking
from saddlepoint.errors import UserError
from saddlepoint.layers.resample import filtered_lrelu
from saddlepoint.metrics.equivariance import equivariance
from saddlepoint.recipes.stylegan2 import ConvolutionSettings
from saddlepoint.recipes.stylegan3 import StyleGAN3Recipe
from saddlepoint.systems import build
from saddlepoint.systems.stylegan3 import (
    FourierInput,
    StyleGAN3,
    SynthesisLayer,
    blur,
    low_pass,
    modulated_conv2d,
    plan,
)


def small(rotation: bool = False, **settings: Any) -> StyleGAN3Recipe:
    """The small networks of 32x32: 8 layers, full margins; r: 1x1 kernels, radial filters, twice the width."""
    values: dict[str, Any] = {
        "resolution": 32, "channels": 3, "layers": 8, "margin": 10, "latent": 32, "w": 32, "batch": 4,
        "g_net": ConvolutionSettings(channel_base=512 * (1 + rotation), channel_max=32 * (1 + rotation), clamp=256.0),
        "d_net": ConvolutionSettings("resnet", channel_base=256, channel_max=16), "kernel": 1 if rotation else 3,
        "radial": rotation, "system": "stylegan3",
    }  # fmt: skip
    return StyleGAN3Recipe(**{**values, **settings})


def made(rotation: bool = False, **settings: Any) -> StyleGAN3:
    torch.manual_seed(0)
    game = build(small(rotation, **settings))
    assert isinstance(game, StyleGAN3)
    return game


# ---- plan and counts
def test_layers_at_1024() -> None:
    layers = plan(recipes.recipe("stylegan3", "t-1024"))  # type: ignore[arg-type]
    expected = (
        "L0_36_512 L1_36_512 L2_52_512 L3_52_512 L4_84_512 L5_148_512 L6_148_512 L7_276_323 L8_276_203 L9_532_128 "
        "L10_1044_81 L11_1044_51 L12_1044_32 L13_1024_32 L14_1024_3"
    )
    assert " ".join(layer.name for layer in layers) == expected
    cutoffs = [
        2,
        2 * 256 ** (1 / 12),
        5.0397,
        8,
        12.699,
        20.159,
        32,
        50.797,
        80.635,
        128,
        203.19,
        322.54,
        512,
        512,
        512,
    ]
    np.testing.assert_allclose([layer.target.cutoff for layer in layers], cutoffs, rtol=1e-4)
    two = layers[2]
    assert (two.up, two.up_taps, two.down, two.down_taps, two.padding) == (4, 24, 2, 12, (-6, -9))
    assert layers[0].padding == (9, 8) and layers[13].padding == (-11, -12)
    assert (layers[14].up_filter(), layers[14].down_filter()) == (None, None)
    assert layers[13].target.half_width == pytest.approx(512 * 2**0.3 - 512)


@pytest.mark.parametrize(
    ("preset", "settings", "count"),
    [
        ("t-1024", {}, 22_313_167),
        ("r-1024", {}, 15_093_151),
        ("t-512", {}, 24_873_519),
        ("r-512", {}, 16_665_594),
        ("t-256", {}, 23_320_443),
        ("r-256", {}, 15_779_565),
        ("t-256", {"channel_base": 32768, "channel_max": 512}, 28_472_133),
        ("r-256", {"channel_base": 65536, "channel_max": 1024}, 18_816_387),
    ],
)
def test_published_parameter_counts(preset: str, settings: dict[str, int], count: int) -> None:
    recipe: Any = recipes.recipe("stylegan3", preset)
    recipe = dataclasses.replace(recipe, g_net=dataclasses.replace(recipe.g_net, **settings))
    game: Any = build(recipe, "meta")
    assert sum(p.numel() for p in game.generator.parameters()) == count
    assert game.generator.mapping.copies == 16
    if preset == "t-1024":
        assert sum(b.numel() for b in game.generator.buffers()) == 2_480
        assert sum(p.numel() for p in game.discriminator.parameters()) == 29_012_513


def test_small_networks() -> None:
    t, r = made(), made(True)
    names = "L0_36_32 L1_36_32 L2_36_32 L3_52_32 L4_52_32 L5_52_23 L6_52_16 L7_32_16 L8_32_3"
    assert " ".join(t.generator.synthesis.layers) == names
    counts = [sum(p.numel() for p in g.generator.synthesis.parameters()) for g in (t, r)]
    mapping = sum(p.numel() for p in t.generator.mapping.parameters())
    assert (counts[0] + mapping, counts[1] + mapping) == (70_005, 48_961)


# ---- filters
def test_the_first_filter_and_scipy() -> None:
    from scipy.signal import firwin

    f = low_pass(12, 2, 12, 32)
    assert f is not None
    half = [0.000792, 0.010018, 0.038950, 0.092413, 0.156526, 0.201302]
    np.testing.assert_allclose(f, [*half, *half[::-1]], atol=1e-6)
    for taps, cutoff, width, rate in [(12, 2, 12, 32), (24, 5.04, 6, 64), (7, 3.3, 2.1, 16), (6, 2, 0.5, 16)]:
        ours = low_pass(taps, cutoff, width, rate)
        assert ours is not None
        np.testing.assert_allclose(ours, firwin(taps, cutoff, width=width, fs=rate), atol=1e-7)


def test_the_radial_filter() -> None:
    f = low_pass(12, 2, 12, 32, radial=True)
    assert f is not None and f.shape == (12, 12)
    torch.testing.assert_close(f, f.t())
    torch.testing.assert_close(f, f.flip((0, 1)))
    assert float(f.sum()) == pytest.approx(1) and float(f[5, 5]) == pytest.approx(0.038755, abs=1e-6)
    assert float(f[0, 0]) == pytest.approx(8.4e-7, rel=0.02)
    odd = low_pass(7, 2, 12, 32, radial=True)
    assert odd is not None and odd.isfinite().all() and odd.argmax() == 24


def test_a_band_limited_signal_comes_back_and_nothing_aliases() -> None:
    """Slope 1: the identity times the gain. Leaky ReLU: no energy above the cutoff's transition band."""
    rate, n, cutoff, width = 32, 128, 6.0, 8.0  # everything below 2 passes, nothing above 10
    t = torch.arange(n, dtype=torch.float64) / rate
    wave = torch.sin(2 * math.pi * 1.5 * t + 0.3)
    x = wave[None, :] * torch.cos(2 * math.pi * 1.0 * t + 1)[:, None]
    f = low_pass(48, cutoff, width, 2 * rate)
    assert f is not None
    total = (n - 1) * 2 + 1 - 2 * n + 2 * 48 - 2
    padding = ((total + 2) // 2, total - (total + 2) // 2) * 2
    y = filtered_lrelu(x[None, None], f.double(), f.double(), None, 2, 2, padding, gain=1.7, slope=1.0)[0, 0]
    inside = slice(30, -30)
    torch.testing.assert_close(y[inside, inside], 1.7 * x[inside, inside], atol=1e-3, rtol=0)
    # a product with |sin| has harmonics far above the rate; after the filters those between 16 and 32 are gone
    loud = filtered_lrelu(x[None, None], f, f, None, 2, 1, padding, slope=0.0)[0, 0, 40:-40, 40:-40]
    window = torch.hann_window(loud.shape[-1], dtype=loud.dtype)
    power = torch.fft.fft2(loud * window * window[:, None]).abs().square()
    frequency = torch.fft.fftfreq(loud.shape[-1], 1 / (2 * rate)).abs()
    high = torch.maximum(frequency[:, None], frequency[None, :]) > cutoff + width / 2 + 1
    assert 10 * math.log10(float(power[high].sum() / power.sum())) < -60


# ---- equivariance
@pytest.mark.parametrize(("rotation", "least"), [(False, (85, 70, 20)), (True, (100, 72, 65))])
def test_untrained_networks_move_with_their_input(rotation: bool, least: tuple[float, float, float]) -> None:
    found = equivariance(made(rotation), 4, batch=2)
    assert found.n == 4
    assert found.eq_t > least[0] and found.eq_t_frac > least[1] and found.eq_r > least[2]
    if not rotation:
        assert found.eq_r < 50  # 3x3 kernels do not turn


def test_images_move_as_they_are_told() -> None:
    game = made(True)
    z = game.draw_latents(2)
    still = game.sample(0, z=z)
    right = game.sample(0, z=z, translate=(0.125, -0.25))  # 4 pixels to the right, 8 up
    torch.testing.assert_close(right[..., 4:20, 8:28], still[..., 12:28, 4:24], atol=1e-4, rtol=0)
    turned = game.sample(0, z=z, rotate=90)
    torch.testing.assert_close(turned, still.rot90(1, (2, 3)), atol=1e-3, rtol=0)
    assert not torch.allclose(still, still.rot90(1, (2, 3)), atol=1e-2)
    matrix = torch.tensor([[1, 0, 0.125], [0, 1, -0.25], [0, 0, 1.0]])
    torch.testing.assert_close(game.sample(0, z=z, transform=matrix), right)
    each = game.sample(0, z=z, transform=torch.stack([torch.eye(3), matrix]), batch=1)
    torch.testing.assert_close(each, torch.stack([still[0], right[1]]), atol=1e-5, rtol=0)
    with pytest.raises(UserError, match="not both"):
        game.sample(1, transform=matrix, rotate=3)


# ---- input, styles and running values
def test_the_learned_motion_begins_as_none_and_can_learn() -> None:
    game = made()
    w = torch.randn(3, 32)
    layer = game.generator.synthesis.input
    torch.testing.assert_close(layer.motion(w), torch.eye(3).expand(3, 3, 3))
    x = layer(w)
    assert torch.equal(x[0], x[1]) and x.shape == (3, 32, 36, 36)
    (g,) = torch.autograd.grad(x.square().mean(), layer.affine.weight)
    assert g.abs().max() > 0
    with torch.no_grad():
        layer.affine.weight.normal_()
    assert not torch.equal(*layer(w)[:2])


def test_frequencies_fill_the_disc() -> None:
    layer = FourierInput(8, 512, (36, 36), 16.0, 2.0)
    radius = layer.frequencies.norm(dim=1)
    assert radius.max() <= 2.0 and radius.numel() == 512
    # uniform in a disc: half of them within 1 / sqrt(2) of the radius
    assert float((radius < 2 / math.sqrt(2)).float().mean()) == pytest.approx(0.5, abs=0.1)
    assert layer.phases.abs().max() <= 0.5


def test_modulation_ignores_the_scale_of_styles_and_the_rest_of_the_batch() -> None:
    x, w, s = torch.randn(3, 4, 6, 6), torch.randn(5, 4, 3, 3), torch.rand(3, 4) + 0.5
    y = modulated_conv2d(x, w, s)
    torch.testing.assert_close(modulated_conv2d(x, 7 * w, 3 * s), y)
    torch.testing.assert_close(modulated_conv2d(x[:1], w, s[:1]), y[:1], atol=1e-6, rtol=1e-5)
    grouped = torch.stack([torch.nn.functional.conv2d(x[i], _weights(w, s[i])) for i in range(3)])
    torch.testing.assert_close(y, grouped)


def _weights(w: Tensor, s: Tensor) -> Tensor:
    """The definition, one sample at a time: modulate, then unit norm per output."""
    w = w * s[None, :, None, None]
    return w / w.square().sum((1, 2, 3), keepdim=True).sqrt()


def test_input_magnitudes_settle_where_inputs_have_unit_mean_square() -> None:
    game = made(magnitude_decay=0.5)
    synthesis = game.generator.synthesis
    layers = [layer for layer in synthesis.layers.values() if isinstance(layer, SynthesisLayer)]
    ws = torch.randn(4, 1, 32).expand(-1, synthesis.copies, -1)
    for _ in range(30):
        with tracking.collecting() as ledger, torch.no_grad():
            synthesis(ws, tracked=True)
        tracking.commit(ledger)
    seen: list[float] = []
    for layer in layers:
        layer.register_forward_pre_hook(
            lambda m, args: seen.append(float((args[0] * m.magnitude.rsqrt()).square().mean()))
        )
    before = [float(layer.magnitude) for layer in layers]
    with torch.no_grad():
        synthesis(ws)
    np.testing.assert_allclose(seen, 1, rtol=1e-2)
    assert [float(layer.magnitude) for layer in layers] == before  # nothing moves unasked
    assert max(abs(m - 1) for m in before) > 0.05


def test_means_move_in_the_discriminators_passes_only() -> None:
    game = made()
    batch = {"image": torch.randn(4, 3, 32, 32)}
    for player, moves in (("generator", False), ("discriminator", True)):
        with tracking.collecting() as ledger:
            game.loss(player, game.round(batch))
        buffers = {t.buffer.data_ptr() for t in ledger}
        layers = [v for v in game.generator.synthesis.modules() if isinstance(v, SynthesisLayer)]
        assert (game.generator.mapping.average.data_ptr() in buffers) == moves
        assert all((layer.magnitude.data_ptr() in buffers) == moves for layer in layers)


# ---- the discriminator's blur
def test_blur_fades() -> None:
    game = made(True, blur_sigma=10.0, blur_fade_kimg=200.0)
    assert (game.sigma(0), game.sigma(100_000), game.sigma(200_000), game.sigma(10**9)) == (10, 5, 0, 0)
    assert made(True, blur_sigma=10.0, init_from="other").sigma(0) == 0
    wide = torch.zeros(1, 1, 1, 81)
    wide[..., 40] = 1
    seen = blur(wide, 10.0)[0, 0, 0]
    assert int((seen > 0).sum()) == 61 and float(seen[40] / seen[50]) == pytest.approx(2.0)
    assert blur(wide, 0.3) is wide


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"base": (4, 2)}, "square"),
        ({"layers": 2, "critical": 2}, "critical"),
        ({"g_net": ConvolutionSettings("resnet")}, "architecture"),
        ({"resolution": 24}, "power of two"),
    ],
)
def test_what_it_does_not_make(settings: dict[str, Any], what: str) -> None:
    with pytest.raises(UserError, match=what):
        build(small(**settings))
