from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from saddlepoint import pretrained, recipes
from saddlepoint.engine import Training
from saddlepoint.errors import UserError
from saddlepoint.game import Round, Stage
from saddlepoint.layers.growing import shrunk
from saddlepoint.layers.residual import doubled, halved
from saddlepoint.recipes.growing import Level
from saddlepoint.systems.stylegan1 import Blur, StyleGAN1, adaptive_norm
from tests.systems.builders import build, count, counts, images

SMALL: dict[str, Any] = {
    "fmap_max": 6, "latent": 5, "w": 7, "mapping_layers": 2, "batches": (0,), "precision": "fp32",
    "channels_last": False,
}  # fmt: skip
GROWN = {**SMALL, "start": 16}


def small(**overrides: Any) -> StyleGAN1:
    game: StyleGAN1 = build("stylegan1", **{**GROWN, **overrides})
    with torch.no_grad():  # noise weights and biases start at 0, where they show nothing
        for parameter in game.parameters():
            parameter.add_((0.1 + 0.2 * parameter.abs().mean()) * torch.randn_like(parameter))
        game.generator.w_avg.normal_()
    return game


def at(game: StyleGAN1, resolution: int = 16, fade: float = 1.0, batch: int = 8, **more: Any) -> Round:
    label = {"label": torch.arange(batch) % 3} if game.recipe.conditional else {}
    made = game.round({"image": images(batch, game.recipe.resolution), **label}, seed=1)
    return dataclasses.replace(made, stage=Stage(resolution=resolution, fade=fade), **more)


# ---- networks
@pytest.mark.parametrize(
    ("resolution", "generator"),
    [(1024, 26_219_627), (512, 26_179_768), (256, 26_086_229), (128, 25_843_858), (64, 25_137_935)],
)
def test_published_parameter_counts(resolution: int, generator: int) -> None:
    assert counts("stylegan1", "1024", resolution=resolution)[0] == generator


def test_counts_of_the_parts_at_1024() -> None:
    game = build("stylegan1", "1024", device="meta")
    assert count(game.generator.mapping) == 2_101_248 == 8 * 262_656
    assert count(game.generator.synthesis) == 24_118_379
    assert count(game.discriminator) == 23_087_249
    noise = [b for name, b in game.generator.named_buffers() if "noise" in name]
    assert sum(b.numel() for b in noise) == 2_796_192 and len(noise) == 18 == game.generator.synthesis.layers
    labelled = build("stylegan1", "1024", device="meta", conditional=True, classes=10)
    assert count(labelled.generator) - count(game.generator) == 10 * 512 + 512 * 512
    assert count(labelled.discriminator) - count(game.discriminator) == 9 * 513


def test_the_mapping_network_starts_and_runs_with_its_multiplier() -> None:
    torch.manual_seed(0)
    mapping = build("stylegan1", "tiny").generator.mapping
    assert len(mapping.layers) == 4
    assert float(mapping.layers[0].weight.detach().std()) == pytest.approx(100, rel=0.05)
    z = torch.randn(512, 64)
    x = z * (z.square().mean(1, keepdim=True) + 1e-8).rsqrt()
    for layer in mapping.layers:
        x = F.leaky_relu(F.linear(x, layer.weight * 0.01 * math.sqrt(2 / 64)) + 0.01 * layer.bias, 0.2)
    torch.testing.assert_close(mapping(z), x)
    torch.testing.assert_close(mapping(3 * z), mapping(z), atol=1e-5, rtol=1e-4)


def test_noise_does_nothing_before_its_weights_move() -> None:
    game = build("stylegan1", **GROWN)
    assert torch.equal(game.sample(2), game.sample(2, noise="none"))
    game = small()
    none, const, random = (game.sample(2, noise=kind) for kind in ("none", "const", "random"))
    assert not torch.equal(none, const) and not torch.equal(const, random)
    assert torch.equal(random, game.sample(2, noise="random"))
    torch.testing.assert_close(game.sample(5, noise="random", batch=2)[:2], random)
    w = game.draw_styles(1).expand(2, -1, -1)
    same, other = (game.sample(2, w=w, noise=kind) for kind in ("const", "random"))
    torch.testing.assert_close(same[0], same[1])
    assert not torch.allclose(other[0], other[1], atol=1e-3)
    with pytest.raises(UserError, match="unknown noise 'cosnt'; did you mean 'const'"):
        game.sample(1, noise="cosnt")
    assert not any("noise" in name for name, _ in build("stylegan1", noise=False, **GROWN).named_parameters())


def test_adain_sets_mean_and_deviation_and_forgets_scale() -> None:
    torch.manual_seed(0)
    x, style = torch.randn(3, 4, 8, 8), torch.randn(3, 8)
    y = adaptive_norm(x, style)
    torch.testing.assert_close(y.mean((2, 3)), style[:, 4:], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(y.std((2, 3), correction=0), (style[:, :4] + 1).abs(), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(adaptive_norm(7 * x - 3, style), y, atol=1e-4, rtol=1e-4)


def test_both_forms_of_adain_agree_with_their_derivatives() -> None:
    from saddlepoint import tracking

    x = torch.randn(2, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    style = torch.randn(2, 6, dtype=torch.float64, requires_grad=True)
    results = []
    for slow in (False, True):
        with tracking.any_order() if slow else tracking.silence():
            y = adaptive_norm(x, style)
            first = torch.autograd.grad(y.pow(3).sum(), (x, style), create_graph=True)
            second = torch.autograd.grad(sum(g.square().sum() for g in first), (x, style))
            results.append((y, *first, *second))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b)


def test_blur_sums_to_one_away_from_the_border_and_darkens_it() -> None:
    y = Blur()(torch.ones(1, 2, 5, 5))
    assert torch.allclose(y[..., 1:-1, 1:-1], torch.ones(3, 3))
    assert torch.allclose(y[..., 0, 1:-1], torch.tensor(0.75)) and float(y[0, 0, 0, 0]) == pytest.approx(0.5625)
    impulse = torch.zeros(1, 1, 3, 3)
    impulse[..., 1, 1] = 16
    assert torch.equal(Blur()(impulse)[0, 0], torch.tensor([[1.0, 2, 1], [2, 4, 2], [1, 2, 1]]))


def test_weights_before_adain_may_have_any_scale() -> None:
    game = small(noise=False)
    layer = game.generator.synthesis.blocks[1].layers[1]
    with torch.no_grad():
        layer.bias.zero_()
        before = game.generator(torch.ones(2, 5))
        layer.conv.weight.mul_(5.0)
    torch.testing.assert_close(game.generator(torch.ones(2, 5)), before, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("resolution", [8, 16])
def test_grown_networks_with_the_newest_layers_at_weight_zero_are_the_old_ones(resolution: int) -> None:
    game = small()
    w, x = game.draw_styles(3), images(3, resolution)
    with torch.no_grad():
        new = game.generator.synthesis.at(Level(resolution, 0.0), w)
        assert torch.equal(new, doubled(game.generator.synthesis.at(Level(resolution // 2), w)))
        score = game.discriminator.at(Level(resolution, 0.0), x)
        assert torch.equal(score, game.discriminator.at(Level(resolution // 2), halved(x)))


# ---- styles
def test_truncation_pulls_towards_the_mean_below_the_cutoff() -> None:
    game = small()
    G, w = game.generator, game.draw_styles(2)
    assert torch.equal(G.truncated(w, 1.0), w)
    assert torch.allclose(G.truncated(w, 0.0), G.w_avg.expand_as(w), atol=1e-6)
    torch.testing.assert_close(G.truncated(w, -0.5), G.w_avg - 0.5 * (w - G.w_avg))
    cut = G.truncated(w, 0.7, cutoff=2)
    torch.testing.assert_close(cut[:, :2], G.w_avg + 0.7 * (w[:, :2] - G.w_avg))
    assert torch.equal(cut[:, 2:], w[:, 2:])
    mean_face = game.sample(3, truncation=0.0)
    torch.testing.assert_close(mean_face[0], mean_face[1])
    torch.testing.assert_close(game.sample(2, truncation=0.7), game.sample(2, w=G.truncated(w, 0.7)))


def test_mixing_styles_by_hand() -> None:
    game = small()
    a, b = game.draw_styles(2, seed=0), game.draw_styles(2, seed=1)
    assert torch.equal(game.mixed(a, a, 3), a)
    mixed = game.mixed(a, b, 3)
    assert torch.equal(mixed[:, :3], a[:, :3]) and torch.equal(mixed[:, 3:], b[:, 3:])
    # The last layer's style reaches the image; no style acts after it.
    assert not torch.equal(game.sample(2, w=game.mixed(a, b, 5)), game.sample(2, w=a))
    with pytest.raises(UserError, match=r"w is \[2, 5, 7\]; expected \[N, 7\] or \[N, 6, 7\]"):
        game.sample(2, w=a[:, :5])


def test_mixing_regularisation_draws_one_crossover_below_the_level() -> None:
    game = small(mixing=1.0)
    seen: dict[int, set[int]] = {4: set(), 8: set(), 16: set()}
    for resolution, found in seen.items():
        for draw in range(60):
            round = at(game, resolution, draw=draw)
            ws = game.styles(round, None)
            first = game.generator.mapping(round.normal("z", 5))
            second = game.generator.mapping(round.normal("z2", 5))
            own = [torch.allclose(ws[:, i], first) for i in range(6)]
            crossover = own.index(False)
            assert all(torch.allclose(ws[:, i], second) for i in range(crossover, 6))
            found.add(crossover)
    assert seen == {4: {1}, 8: {1, 2, 3}, 16: {1, 2, 3, 4, 5}}


@pytest.mark.parametrize(("probability", "low", "high"), [(0.0, 0, 0), (0.3, 15, 45), (0.9, 75, 99)])
def test_mixing_happens_with_its_probability(probability: float, low: int, high: int) -> None:
    game, mixed = small(mixing=probability), 0
    for draw in range(100):
        ws = game.styles(at(game, draw=draw), None)
        mixed += int(not torch.equal(ws[:, 0], ws[:, -1]))
    assert low <= mixed <= high


def source(cursor: int, total: int, first: int, length: int, resolution: int | None = None) -> dict[str, Tensor]:
    x = images(length, 16, seed=cursor + first)
    return {"image": shrunk(x, resolution or 16), "label": (torch.arange(length) + cursor) % 3}


def training(**overrides: Any) -> Training:
    short = {"stable_kimg": 0.016, "fade_kimg": 0.016, "batch": 4, "start": 4}
    game = small(**{**short, **overrides})
    return Training(game, game.recipe, source)


def test_the_mean_of_w_follows_both_players_moves_and_nothing_else() -> None:
    made = training(w_decay=0.5)
    game = made.game
    assert isinstance(game, StyleGAN1)
    start, old = game.generator.w_avg.clone(), {k: v.clone() for k, v in game.state_dict().items()}
    made.play()
    after = game.generator.w_avg.clone()
    # The discriminator's move sees the old mapping network, and so does the generator's: it has not moved yet.
    before = build("stylegan1", **{**GROWN, "start": 4})
    before.load_state_dict(old)
    expected = start
    for draw in (1, 2):
        round = dataclasses.replace(before.round({"image": images(4)}, seed=made.recipe.seed), draw=draw)
        expected = 0.5 * expected + 0.5 * before.generator.mapping(round.normal("z", 5)).mean(0)
    torch.testing.assert_close(after, expected)
    game.sample(4, noise="random")
    game.loss("generator", game.round({"image": images(4)}))
    assert torch.equal(game.generator.w_avg, after)
    assert torch.equal(made.average.game().generator.w_avg, after)  # type: ignore[union-attr]


def test_training_grows_from_its_start_and_every_weight_moves() -> None:
    made = training()
    before, sides = {k: v.clone() for k, v in made.game.named_parameters()}, []
    while made.counters.clock < 92:
        report = made.play()
        assert set(report["discriminator"]) == {"gan", "r1"} and set(report["generator"]) == {"gan"}
        assert all(torch.isfinite(v) for terms in report.values() for v in terms.values())
        sides.append(made.table.stage.resolution)
    assert sides == [4] * 5 + [8] * 8 + [16] * 10
    assert all(not torch.equal(before[k], v) for k, v in made.game.named_parameters())
    assert build("stylegan1", resolution=32, device="meta").stage(0).resolution == 8


def test_the_running_average_of_the_paper() -> None:
    half_life = 1000 * recipes.recipe("stylegan1", "1024").ema_half_life_kimg
    assert 0.5 ** (32 / half_life) == pytest.approx(0.5**0.0032) == pytest.approx(0.99778, abs=1e-5)


# ---- the losses
def test_losses_at_a_logit_of_zero() -> None:
    game = small()
    game.discriminator.logits_at = lambda level, x, label=None: 0 * x.sum((1, 2, 3))  # type: ignore[method-assign]
    round = at(game)
    assert float(game.loss("generator", round)["gan"].detach()) == pytest.approx(math.log(2))
    terms = game.loss("discriminator", round)
    assert float(terms["gan"].detach()) == pytest.approx(2 * math.log(2)) and float(terms["r1"].detach()) == 0


def test_r1_of_a_linear_discriminator() -> None:
    game, a = small(penalty={"r1": 10.0}), torch.randn(1, 16, 16)
    game.discriminator.logits_at = lambda level, x, label=None: (x * a).sum((1, 2, 3))  # type: ignore[method-assign]
    terms = game.loss("discriminator", at(game))
    assert float(terms["r1"].detach()) == pytest.approx(5 * float(a.square().sum()), rel=1e-5)
    assert not terms["r1"].requires_grad, "R1 is about reals: nothing of the fakes is in it"


def test_labels_reach_both_networks() -> None:
    game = small(conditional=True, classes=3)
    z, label = torch.randn(3, 5), torch.tensor([2, 0, 1])
    rows = F.one_hot(label, 3).float()
    torch.testing.assert_close(game.generator(z, label), game.generator(z, rows))
    embedded = torch.cat([z, game.generator.mapping.embedding[label]], 1)  # type: ignore[index]
    x = embedded * (embedded.square().mean(1, keepdim=True) + 1e-8).rsqrt()
    for layer in game.generator.mapping.layers:
        x = F.leaky_relu(layer(x), 0.2)
    torch.testing.assert_close(game.generator.mapping(z, label), x)
    image = images(3)
    outputs = game.discriminator.at(Level(16), image)
    assert outputs.shape == (3, 3)
    torch.testing.assert_close(game.discriminator(image, label), outputs[torch.arange(3), label])
    assert not torch.equal(game.sample(2, label=0), game.sample(2, label=1))
    assert set(training(conditional=True, classes=3).play()) == {"discriminator", "generator"}
    for network, given in ((game.generator, z), (game.discriminator, image)):
        with pytest.raises(UserError, match="is conditional: a class for every"):
            network(given)


def test_the_wgan_gp_variant_plays() -> None:
    made = training(objective="wasserstein", penalty={"r1": 0.0, "gradient_penalty": 10.0, "drift": 0.001})
    assert set(made.play()["discriminator"]) == {"wasserstein", "gradient_penalty", "drift"}


# ---- published weights, against a second reading of the official functions
def random_state(resolution: int, labels: int = 0, w: int = 7, latent: int = 5) -> dict[str, Tensor]:
    """Random tensors under the official names in the official layouts."""
    shapes: dict[str, tuple[int, ...]] = {"G/dlatent_avg": (w,)}
    widths = {1 << r: min(128 >> (r - 1), 4) for r in range(2, resolution.bit_length())}  # fmap_base 128, fmap_max 4
    if labels:
        shapes["G/G_mapping/LabelConcat/weight"] = (labels, latent)
    for i in range(3):
        inputs = (2 * latent if labels else latent) if i == 0 else w
        shapes |= {f"G/G_mapping/Dense{i}/weight": (inputs, w), f"G/G_mapping/Dense{i}/bias": (w,)}
    for i, side in enumerate(widths):
        a, b = widths[max(side // 2, 4)], widths[side]
        for j, name in enumerate(("Const", "Conv") if side == 4 else ("Conv0_up", "Conv1")):
            scope = f"G/G_synthesis/{side}x{side}/{name}"
            if name == "Const":
                shapes[f"{scope}/const"] = (1, b, 4, 4)
            else:
                shapes[f"{scope}/weight"] = (3, 3, a if name == "Conv0_up" else b, b)
            shapes |= {f"{scope}/Noise/weight": (b,), f"{scope}/bias": (b,)}
            shapes |= {f"{scope}/StyleMod/weight": (w, 2 * b), f"{scope}/StyleMod/bias": (2 * b,)}
            shapes[f"G/G_synthesis/noise{2 * i + j}"] = (1, 1, side, side)
        lod = len(widths) - 1 - i
        shapes |= {f"G/G_synthesis/ToRGB_lod{lod}/weight": (1, 1, b, 2), f"G/G_synthesis/ToRGB_lod{lod}/bias": (2,)}
        shapes |= {f"D/FromRGB_lod{lod}/weight": (1, 1, 2, b), f"D/FromRGB_lod{lod}/bias": (b,)}
        if side > 4:
            shapes |= {f"D/{side}x{side}/Conv0/weight": (3, 3, b, b), f"D/{side}x{side}/Conv0/bias": (b,)}
            shapes |= {f"D/{side}x{side}/Conv1_down/weight": (3, 3, b, a), f"D/{side}x{side}/Conv1_down/bias": (a,)}
    first, hidden = widths[4], 4
    shapes |= {"D/4x4/Conv/weight": (3, 3, first + 1, first), "D/4x4/Conv/bias": (first,)}
    shapes |= {"D/4x4/Dense0/weight": (first * 16, hidden), "D/4x4/Dense0/bias": (hidden,)}
    shapes |= {"D/4x4/Dense1/weight": (hidden, max(labels, 1)), "D/4x4/Dense1/bias": (max(labels, 1),)}
    generator = torch.Generator().manual_seed(resolution)
    scale = {name: 100.0 if "G_mapping/Dense" in name else 1.0 for name in shapes}
    return {n: scale[n] * torch.randn(s, generator=generator) for n, s in shapes.items()}


def tf_conv(x: Tensor, w: Tensor, gain: float = math.sqrt(2)) -> Tensor:
    """conv2d with equalised weights [k, k, in, out]."""
    scale = gain / math.sqrt(w[..., 0].numel())
    return F.conv2d(x, scale * w.permute(3, 2, 0, 1), padding=w.shape[0] // 2)


def tf_up(x: Tensor, w: Tensor) -> Tensor:
    """upscale2d_conv2d: fused from 128 pixels on, by a transposed convolution with the summed kernel."""
    if 2 * x.shape[-1] < 128:
        return tf_conv(x.repeat_interleave(2, 2).repeat_interleave(2, 3), w)
    kernel = F.pad(math.sqrt(2 / w[..., 0].numel()) * w.permute(2, 3, 0, 1), (1, 1, 1, 1))
    kernel = kernel[..., 1:, 1:] + kernel[..., :-1, 1:] + kernel[..., 1:, :-1] + kernel[..., :-1, :-1]
    return F.conv_transpose2d(x, kernel, stride=2, padding=1)


def tf_dense(x: Tensor, state: dict[str, Tensor], scope: str, gain: float = 1.0, lrmul: float = 1.0) -> Tensor:
    w = state[f"{scope}/weight"]
    return x @ w * (lrmul * gain / math.sqrt(w.shape[0])) + lrmul * state[f"{scope}/bias"]


def tf_blur(x: Tensor) -> Tensor:
    x = F.pad(x, (1, 1, 1, 1))
    x = (x[..., :-2] + 2 * x[..., 1:-1] + x[..., 2:]) / 4
    return (x[..., :-2, :] + 2 * x[..., 1:-1, :] + x[..., 2:, :]) / 4


def tf_generator(s: dict[str, Tensor], z: Tensor, resolution: int, labels: Tensor | None, psi: float) -> Tensor:
    x = z if labels is None else torch.cat([z, labels @ s["G/G_mapping/LabelConcat/weight"]], 1)
    x = x / (x.square().mean(1, keepdim=True) + 1e-8).sqrt()
    for i in range(3):
        x = F.leaky_relu(tf_dense(x, s, f"G/G_mapping/Dense{i}", math.sqrt(2), 0.01), 0.2)
    w = [s["G/dlatent_avg"] + (psi if i < 4 else 1.0) * (x - s["G/dlatent_avg"]) for i in range(20)]

    def epilogue(x: Tensor, scope: str, index: int) -> Tensor:
        x = x + s[f"G/G_synthesis/noise{index}"] * s[f"{scope}/Noise/weight"].view(1, -1, 1, 1)
        x = F.leaky_relu(x + s[f"{scope}/bias"].view(1, -1, 1, 1), 0.2)
        x = x - x.mean((2, 3), keepdim=True)
        x = x / (x.square().mean((2, 3), keepdim=True) + 1e-8).sqrt()
        style = tf_dense(w[index], s, f"{scope}/StyleMod").view(len(x), 2, -1, 1, 1)
        return x * (style[:, 0] + 1) + style[:, 1]

    base = "G/G_synthesis"
    x = epilogue(s[f"{base}/4x4/Const/const"].repeat(len(z), 1, 1, 1), f"{base}/4x4/Const", 0)
    x = epilogue(tf_conv(x, s[f"{base}/4x4/Conv/weight"]), f"{base}/4x4/Conv", 1)
    for i in range(1, resolution.bit_length() - 2):
        scope = f"{base}/{4 << i}x{4 << i}"
        x = epilogue(tf_blur(tf_up(x, s[f"{scope}/Conv0_up/weight"])), f"{scope}/Conv0_up", 2 * i)
        x = epilogue(tf_conv(x, s[f"{scope}/Conv1/weight"]), f"{scope}/Conv1", 2 * i + 1)
    return tf_conv(x, s[f"{base}/ToRGB_lod0/weight"], 1) + s[f"{base}/ToRGB_lod0/bias"].view(1, -1, 1, 1)


def tf_discriminator(s: dict[str, Tensor], x: Tensor, resolution: int, labels: Tensor | None) -> Tensor:
    def act(x: Tensor, scope: str) -> Tensor:
        return F.leaky_relu(x + s[f"{scope}/bias"].view(1, -1, 1, 1), 0.2)

    x = act(tf_conv(x, s["D/FromRGB_lod0/weight"]), "D/FromRGB_lod0")
    for i in range(resolution.bit_length() - 3, 0, -1):
        scope = f"D/{4 << i}x{4 << i}"
        x = act(tf_conv(x, s[f"{scope}/Conv0/weight"]), f"{scope}/Conv0")
        x = act(F.avg_pool2d(tf_conv(tf_blur(x), s[f"{scope}/Conv1_down/weight"]), 2), f"{scope}/Conv1_down")
    groups = x.view(4, -1, *x.shape[1:])
    spread = (groups.var(0, correction=0) + 1e-8).sqrt().mean((1, 2, 3)).repeat(4)
    x = torch.cat([x, spread.view(-1, 1, 1, 1).expand(-1, 1, 4, 4)], 1)
    x = act(tf_conv(x, s["D/4x4/Conv/weight"]), "D/4x4/Conv").flatten(1)
    x = F.leaky_relu(tf_dense(x, s, "D/4x4/Dense0", math.sqrt(2)), 0.2)
    out = tf_dense(x, s, "D/4x4/Dense1")
    return out[:, 0] if labels is None else (out * labels).sum(1)


@pytest.mark.parametrize(("resolution", "labels"), [(8, 0), (16, 3), (128, 0)])
def test_official_names_and_layouts_against_a_second_reading(resolution: int, labels: int) -> None:
    state = random_state(resolution, labels)
    config = {"fmap_base": 128, "fmap_max": 4, "resolution": resolution, "label_size": labels}
    game = pretrained.load("stylegan1", state, **config, num_channels=2)
    assert isinstance(game, StyleGAN1)
    z, x = torch.randn(4, 5), torch.randn(4, 2, resolution, resolution)
    rows = F.one_hot(torch.arange(4) % labels, labels).float() if labels else None
    ours = game.generator(z, rows, truncation=0.7, cutoff=4)
    torch.testing.assert_close(ours, tf_generator(state, z, resolution, rows, 0.7), atol=2e-4, rtol=1e-4)
    ours = game.discriminator(x, rows)
    torch.testing.assert_close(ours, tf_discriminator(state, x, resolution, rows), atol=2e-4, rtol=1e-4)


def test_weights_that_do_not_fit_are_named() -> None:
    state = random_state(8)
    config = {"fmap_base": 128, "fmap_max": 4}
    del state["G/G_synthesis/8x8/Conv0_up/StyleMod/bias"]
    with pytest.raises(
        UserError, match=r"generator of stylegan1: missing \(1\): G_synthesis/8x8/Conv0_up/StyleMod/bias"
    ):
        pretrained.load("stylegan1", state, **config)
    with pytest.raises(UserError, match="unknown value of use_pixel_norm 'True'"):
        pretrained.load("stylegan1", random_state(8), **config, use_pixel_norm=True)
    with pytest.raises(UserError, match="did you mean 'fmap_base'"):
        pretrained.load("stylegan1", random_state(8), fmap_bse=128)


def test_one_network_alone() -> None:
    state = {k.removeprefix("D/"): v for k, v in random_state(8).items() if k.startswith("D/")}
    game = pretrained.load("stylegan1", state, fmap_base=128, fmap_max=4)
    assert isinstance(game, StyleGAN1)
    assert torch.equal(game.discriminator.hidden.weight, state["4x4/Dense0/weight"].t())
    assert torch.equal(game.generator.synthesis.constant, torch.ones_like(game.generator.synthesis.constant))
