from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from saddlepoint import pretrained, recipes, tracking
from saddlepoint.engine import Training
from saddlepoint.errors import UserError
from saddlepoint.game import Move
from saddlepoint.layers.equalised import pixel_norm
from saddlepoint.penalties import slope
from saddlepoint.recipes.base import Penalty
from saddlepoint.recipes.stylegan2 import ConvolutionSettings, MappingSettings
from saddlepoint.systems.stylegan2 import MAIN, Discriminator, Mapping, Synthesis, path_lengths, sizes, widths
from tests.systems.builders import build, counts, images, train

NARROW: dict[str, Any] = {
    "latent": 6, "w": 6, "g_net": {"channel_base": 64, "channel_max": 8},
    "d_net": {"channel_base": 64, "channel_max": 8}, "precision": "fp32", "channels_last": False, "path_every": 4,
}  # fmt: skip


def small(preset: str = "tiny", **overrides: Any) -> Any:
    return build("stylegan2", preset, **{**NARROW, **overrides})


def perturbed(game: Any) -> Any:
    """Noise strengths and biases away from 0, where many a broken layer looks right."""
    with torch.no_grad():
        for index, parameter in enumerate(game.parameters()):
            generator = torch.Generator().manual_seed(index)
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
    return game


# ---- networks
@pytest.mark.parametrize(
    ("preset", "overrides", "expected"),
    [
        ("f-1024", {}, (30_370_060, 29_012_513)),
        ("e-1024", {}, (24_900_764, 24_038_161)),
        ("f-1024", {"resolution": 512}, (30_276_583, 28_982_849)),
        ("f-1024", {"resolution": 256}, (30_034_338, 28_864_129)),
        ("paper-256", {}, (24_767_458, 24_001_089)),
        ("paper-512", {}, (30_276_583, 28_982_849)),
        ("paper-1024", {}, (30_370_060, 29_012_513)),
        ("cifar", {}, (19_947_539, 20_720_641)),
        ("cifar-labels", {"classes": 10}, (20_215_315, 23_089_664)),
    ],
)
def test_published_parameter_counts(preset: str, overrides: dict[str, Any], expected: tuple[int, int]) -> None:
    assert counts("stylegan2", preset, **overrides) == expected


def test_f_1024_in_its_parts() -> None:
    G = build("stylegan2", "f-1024", device="meta").generator
    assert sum(p.numel() for p in G.mapping.parameters()) == 2_101_248
    assert sum(p.numel() for p in G.synthesis.parameters()) == 28_268_812
    assert G.mapping.copies == G.synthesis.copies == 18
    assert [b.conv1.weight.shape[0] for b in G.synthesis.each()] == [512, 512, 512, 512, 512, 256, 128, 64, 32]
    assert widths(7, 16384, 512) == [512, 512, 512, 512, 256, 128, 64]


def test_presets_as_published() -> None:
    batch = {"f-1024": 32, "paper-256": 64, "paper-512": 64, "paper-1024": 32, "cifar": 64, "auto-256": 16}
    gamma = {"f-1024": 10, "paper-256": 1, "paper-512": 0.5, "paper-1024": 2, "cifar": 0.01, "auto-256": 0.8192}
    for name, images_a_step in batch.items():
        recipe: Any = recipes.recipe("stylegan2", name)
        assert recipe.batch == images_a_step
        assert recipe.penalty == Penalty(r1=pytest.approx(gamma[name]))
        assert recipe.g.lr == recipe.d.lr == (2e-3 if name in ("f-1024", "paper-1024") else 2.5e-3)
    cifar: Any = recipes.recipe("stylegan2", "cifar")
    assert (cifar.path_length, cifar.style_mixing, cifar.d_net.architecture) == (0, 0, "orig")
    assert (cifar.ema_half_life_kimg, cifar.stddev_group, cifar.kimg) == (500, 32, 100000)


@pytest.mark.parametrize("base", [(4, 4), (3, 5), (4, 2)])
@pytest.mark.parametrize("architecture", ["skip", "resnet", "orig"])
def test_first_blocks_of_any_shape(base: tuple[int, int], architecture: Any) -> None:
    side = 4 * max(base)
    settings = {"architecture": architecture, "channel_base": 32, "channel_max": 8}
    game = small(resolution=side, base=base, g_net=settings, d_net=settings)
    x = game.sample(3)
    assert x.shape == (3, 1, 4 * base[0], 4 * base[1])
    assert game.discriminator(x).shape == (3,)


def test_a_resolution_that_the_blocks_cannot_reach() -> None:
    assert sizes(24, (3, 2)) == [(3, 2), (6, 4), (12, 8), (24, 16)]
    with pytest.raises(UserError, match="not 24; nearest: 32"):
        small(resolution=24)
    with pytest.raises(UserError, match="not 4; nearest: 8"):
        sizes(4)


def test_mapping_of_latents_and_labels() -> None:
    M = Mapping(5, 3, 7, copies=4, settings=MappingSettings(layers=2))
    z, label = torch.randn(6, 5), torch.tensor([0, 1, 2, 0, 1, 2])
    ws = M(z, label)
    assert ws.shape == (6, 4, 7) and torch.equal(ws[:, 0], ws[:, 3])
    assert torch.allclose(M(9 * z, label), ws, atol=1e-5), "the size of z does not matter"
    assert torch.equal(M(z, torch.eye(3)[label]), ws)
    embedded = pixel_norm(M.embed(torch.eye(3)[label]))
    x = torch.cat([pixel_norm(z), embedded], 1)
    for layer in M.layers:  # the weights are 100 times as large as what they act with
        c = 0.01 / math.sqrt(x.shape[1])
        x = x @ (layer.weight * c).t() + 0.01 * layer.bias
        x = math.sqrt(2) * torch.where(x > 0, x, 0.2 * x)
    assert torch.allclose(ws[:, 0], x, atol=1e-5)
    with pytest.raises(UserError, match="0 to 2"):
        M(z)
    with pytest.raises(UserError, match=r"\[N, 5\]"):
        M(torch.randn(6, 4), label)


def test_the_images_layer_shares_the_next_blocks_style() -> None:
    G = perturbed(Synthesis(6, 16, 1, settings=ConvolutionSettings(channel_base=64, channel_max=8)))
    assert G.copies == 6
    ws = torch.randn(1, 6, 6, requires_grad=True)
    seen: dict[str, Tensor] = {}
    for key, block in G.blocks.items():
        block.register_forward_hook(lambda m, i, o, key=key: seen.__setitem__(key, o[1]))
    G(ws)
    for key, last in (("b4", 1), ("b8", 3), ("b16", 5)):
        gradient = torch.autograd.grad(seen[key].square().sum(), ws, retain_graph=True)[0][0]
        assert gradient[: last + 1].abs().sum(1).gt(0).all() and not gradient[last + 1 :].any(), key


def test_clamps_hold_each_layer() -> None:
    game = small(g_net={**NARROW["g_net"], "clamp": 0.2}, d_net={**NARROW["d_net"], "clamp": 0.3})
    largest: dict[str, float] = {}
    layers = [
        (f"g.{b}.{k}", m) for b, block in game.generator.synthesis.blocks.items() for k, m in block.named_children()
    ]
    layers += [(f"d.{b}.{k}", m) for b, block in game.discriminator.blocks.items() for k, m in block.named_children()]
    for name, module in layers:
        module.register_forward_hook(lambda m, i, o, n=name: largest.__setitem__(n, float(o.abs().max())))
    game.discriminator(game.generator(game.draw_latents(4)))
    convs = [v for n, v in largest.items() if n.startswith("g.") and "conv" in n]
    assert max(convs) == pytest.approx(0.2) and min(convs) > 0.1
    assert largest["d.b16.from_image"] <= 0.3 + 1e-6
    assert largest["d.b16.conv1"] <= 0.3 * math.sqrt(0.5) + 1e-6  # the branch's gain scales its clamp


def test_frozen_layers_are_counted_from_the_image() -> None:
    D = Discriminator(16, 1, settings=ConvolutionSettings("resnet", 64, 8), frozen=4)
    frozen = {name for name, p in D.named_parameters() if not p.requires_grad}
    assert {n.split(".")[2] for n in frozen} == {"from_image", "conv0", "conv1", "skip"}
    assert {n.split(".")[1] for n in frozen} == {"b16"}
    game = perturbed(small(freeze_d=3))
    before = game.discriminator.blocks["b16"].conv0.weight.clone()
    train(game, {"image": images(4)}, rounds=2)
    assert torch.equal(game.discriminator.blocks["b16"].conv0.weight, before)


# ---- running values, truncation, noise
def test_running_mean_of_w() -> None:
    M = Mapping(4, 0, 3, copies=2, settings=MappingSettings(layers=1), decay=0.9).train()
    z = torch.randn(5, 4)
    with tracking.collecting() as ledger:
        w = M(z)[:, 0]
        M(torch.randn(5, 4), tracked=False)
    assert len(ledger) == 1 and not M.average.any()
    tracking.commit(ledger)
    assert torch.allclose(M.average, 0.1 * w.mean(0))
    M.eval()
    with tracking.collecting() as ledger:
        M(z)
    assert not ledger


def test_truncation_pulls_towards_the_mean() -> None:
    game = perturbed(small())
    M = game.generator.mapping
    M.average.normal_(generator=torch.Generator().manual_seed(0))
    full, half, none = (game.mapped(3, truncation=t) for t in (1.0, 0.5, 0.0))
    assert torch.allclose(half - M.average, 0.5 * (full - M.average), atol=1e-6)
    assert torch.allclose(none, M.average.expand_as(none))
    average = game.sample(3, seed=1, truncation=0.0)
    assert torch.allclose(average[0], average[2], atol=1e-6)
    part = game.mapped(3, truncation=0.5, cutoff=2)
    assert torch.equal(part[:, 2:], full[:, 2:]) and torch.allclose(part[:, :2], half[:, :2])


def test_three_kinds_of_noise() -> None:
    game = perturbed(small())
    for noise in ("const", "none", "random"):
        assert torch.equal(game.sample(4, noise=noise), game.sample(4, noise=noise))
    const, none, fresh = (game.sample(4, noise=noise) for noise in ("const", "none", "random"))
    assert not torch.equal(const, none) and not torch.equal(const, fresh)
    assert torch.allclose(game.sample(2, noise="random"), fresh[:2], atol=1e-6)
    assert torch.allclose(game.sample(4, noise="random", batch=1), fresh, atol=1e-5)
    w = game.mapped(1).expand(2, -1, -1)
    same = game.sample(0, w=w)
    assert torch.allclose(same[0], same[1], atol=1e-6), "the stored noise is the same for every image"
    other = game.sample(0, w=w, noise="random")
    assert not torch.allclose(other[0], other[1], atol=1e-3)
    with pytest.raises(UserError, match="const, random or none"):
        game.sample(1, noise="loud")
    silent = small(noise=False)
    assert torch.equal(silent.sample(2), silent.sample(2, noise="none"))


def test_style_mixing_at_sampling() -> None:
    game = perturbed(small())
    a, b = game.draw_latents(2).split(1)
    copies = game.generator.mapping.copies
    assert torch.allclose(game.mix(a, b, copies), game.sample(1, z=a), atol=1e-6)
    assert torch.allclose(game.mix(a, b, 0), game.sample(1, z=b), atol=1e-6)
    assert not torch.allclose(game.mix(a, b, 3), game.sample(1, z=a), atol=1e-3)
    row = game.interpolate(a[0], b[0], 5)
    assert torch.allclose(row[0], game.sample(1, z=a)[0], atol=1e-5)
    assert torch.allclose(row[-1], game.sample(1, z=b)[0], atol=1e-5)


def test_styles_of_a_round_are_mixed_by_one_coin() -> None:
    game = perturbed(small(style_mixing=0.5))
    mapping = game.generator.mapping
    mixed, cutoffs = 0, set()
    for draw in range(60):
        round = game.round(size=3, draw=draw)
        ws = game.styles(round, slice(None))
        changes = (ws[:, 1:] != ws[:, :-1]).any(2)  # [N, copies - 1]
        assert torch.equal(changes, changes[:1].expand_as(changes)) and changes[0].sum() <= 1
        first = mapping(game.prior.of(round))
        assert torch.equal(ws[:, 0], first[:, 0]), "the first layer never takes the second latents"
        mixed += bool(changes.any())
        cutoffs |= set(changes[0].nonzero()[:, 0].tolist())
    assert 15 <= mixed <= 45 and cutoffs == set(range(mapping.copies - 1))


# ---- losses
def test_path_lengths_of_a_linear_map() -> None:
    """numbered(w) = sum_n sum_l y_n^T A_l w_nl has gradient A_l^T y_n: the length is sqrt(mean_l |A_l^T y_n|^2)."""
    A, y = torch.randn(4, 10, 5, dtype=torch.float64), torch.randn(3, 10, dtype=torch.float64)
    ws = torch.randn(3, 4, 5, dtype=torch.float64)
    found = path_lengths(lambda w: torch.einsum("np,lpk,nlk->", y, A, w), ws)
    expected = torch.einsum("np,lpk->nlk", y, A).square().sum(2).mean(1).sqrt()
    assert torch.allclose(found, expected)


def test_path_penalty_against_automatic_differentiation_and_its_running_mean() -> None:
    game = perturbed(small()).double()
    game.path_length_mean.fill_(0.3)
    round = game.round(size=4)
    with tracking.collecting() as ledger:
        penalty = game.path_penalty(round)
    ws = game.styles(round, slice(0, None, 2), "path.").detach().requires_grad_()
    noise = lambda name, *shape: round.normal(f"path.noise.{name}", *shape)[::2]  # noqa: E731
    x = game.generator.synthesis(ws, noise=noise)
    y = round.normal("path.y", *x.shape[1:])[::2] / math.sqrt(16 * 16)
    gradient = torch.autograd.grad((x * y).sum(), ws)[0]
    lengths = gradient.square().sum(2).mean(1).sqrt()
    mean = 0.99 * 0.3 + 0.01 * lengths.mean()
    assert float(penalty) == pytest.approx(float((lengths - mean).square().mean()), rel=1e-9)
    assert float(game.path_length_mean) == pytest.approx(0.3)
    tracking.commit([entry for entry in ledger if entry.buffer is game.path_length_mean])
    assert float(game.path_length_mean) == pytest.approx(float(mean))


def test_the_batchs_share_of_the_mean_carries_gradient() -> None:
    """d/dw of (a - lerp(m, a, r))^2 for one sample is 2 (1 - r)^2 (a - m) da/dw."""
    game = perturbed(small(path_decay=0.25)).double()
    round = game.round(size=1)
    penalty = game.path_penalty(round)
    weight = game.generator.synthesis.blocks["b16"].conv1.weight
    found = torch.autograd.grad(penalty, weight)[0]
    lengths = path_lengths(lambda w: game.numbered(round, slice(None), w), game.styles(round, slice(None), "path."))
    slope_of_length = torch.autograd.grad(lengths.sum(), weight)[0]
    assert slope_of_length.abs().max() > 0
    assert torch.allclose(found, 2 * 0.75**2 * lengths.detach() * slope_of_length, rtol=1e-8)


@pytest.mark.parametrize("shrink", [1, 2, 3])
def test_path_lengths_do_not_depend_on_how_a_batch_is_cut(shrink: int) -> None:
    """With a mean that holds no share of the batch nothing couples the samples."""
    game = perturbed(small(path_shrink=shrink, path_decay=0.0, style_mixing=0.9)).double()
    round = game.round(size=6, seed=1)
    whole = game.path_penalty(round)
    for parts in (2, 3, 6):
        cut = torch.stack([game.path_penalty(part) for part in round.split(parts)]).mean()
        assert float(cut) == pytest.approx(float(whole), rel=1e-9), parts


def test_r1_of_a_linear_discriminator() -> None:
    """D(x) = <a, x> has penalty gamma/2 |a|^2 whatever the images, sixteen-fold in the rounds when it is due."""
    game = small(penalty={"r1": 3.0})
    a = torch.randn(1, 16, 16)
    game.discriminator.forward = lambda x, label=None: (x * a).sum((1, 2, 3))
    round = game.round({"image": images(4)})
    expected = 1.5 * float(a.square().sum())
    assert float(game.loss("discriminator", round)["r1"]) == pytest.approx(expected, rel=1e-5)
    asked = dataclasses.replace(round, analysis=False, step=32, terms=frozenset({"r1"}))
    assert float(game.loss("discriminator", asked)["r1"]) == pytest.approx(16 * expected, rel=1e-5)
    assert game.loss("discriminator", dataclasses.replace(asked, step=33)) == {}


def test_losses_by_hand() -> None:
    game = perturbed(small(penalty={"r1": 0.0}, path_length=0.0, stddev_features=0))
    assert game.couples == frozenset()
    batch = {"image": images(4)}
    round = game.round(batch)
    fake, real = game.discriminator(game.fakes(round)), game.discriminator(batch["image"])
    d, g = game.loss("discriminator", round), game.loss("generator", round)
    assert list(d) == list(g) == ["gan"]
    assert float(d["gan"]) == pytest.approx(
        float((torch.log1p(fake.exp()) + torch.log1p((-real).exp())).mean()), rel=1e-5
    )
    assert float(g["gan"]) == pytest.approx(float(torch.log1p((-fake).exp()).mean()), rel=1e-5)


def test_one_step_may_hold_everything() -> None:
    """Without intervals all terms share a step, and R1 the forward pass on the reals."""
    game = perturbed(small(path_every=0, r1_every=0, penalty={"r1": 2.0}))
    assert game.moves(7) == [Move("generator", "data"), Move("discriminator", "noise")]
    batch = {"image": images(4)}
    terms = game.loss("discriminator", game.round(batch))
    assert set(terms) == {"gan", "r1"} and set(game.loss("generator", game.round(batch))) == {"gan", "path_length"}
    squared = slope(game.discriminator, batch["image"])[1]
    assert float(terms["r1"]) == pytest.approx(float(squared.mean()), rel=1e-5)


@pytest.mark.parametrize("objective", ["hinge", "wasserstein", "relativistic"])
def test_other_objectives_and_penalties(objective: str) -> None:
    game = perturbed(small(objective=objective, penalty={"r1": 1.0, "r2": 1.0, "gradient_penalty": 1.0}))
    training = train(game, {"image": images(4)}, rounds=2)
    assert training.counters.step == 2 and training.counters.clock == 8
    assert set(training.play()["discriminator"]) == {"gan", "r2", "gradient_penalty"}


def test_everything_that_the_discriminator_sees_is_augmented() -> None:
    plain, game = (perturbed(small(augment={"operations": ops, "p": 1.0})) for ops in ("", "bgc"))
    batch = {"image": images(4)}
    for player, names in (("generator", ["gan"]), ("discriminator", ["gan", "r1"])):
        a, b = (g.loss(player, g.round(batch)) for g in (plain, game))
        assert all(not torch.allclose(a[n], b[n]) for n in names)
    off = perturbed(small(augment={"operations": "bgc", "p": 0.0}))
    a, b = (g.loss("discriminator", g.round(batch)) for g in (plain, off))
    assert all(torch.allclose(a[n], b[n], atol=1e-4) for n in a)


def test_adaptive_augmentation_follows_the_signs() -> None:
    game = perturbed(small(batch=4, augment={"operations": "bgc", "p": 0.5, "kimg": 0.1}))
    game.recipe = dataclasses.replace(game.recipe, path_length=0.0)
    training = train(game, {"image": images(4)}, rounds=4)
    p, sign = float(game.augment.controller.p), float(game.augment.controller.sign)
    assert p == pytest.approx(0.5 + math.copysign(4 * 4 / 100, sign - 0.6))
    assert training.counters.step == 4


def test_images_that_are_not_square() -> None:
    recipe: Any = recipes.recipe("stylegan2", "tiny", base=(2, 3))
    assert recipe.holding(30, 40) == 48
    assert dataclasses.replace(recipe, resolution=48).shape == (32, 48)
    assert recipes.recipe("stylegan2", "tiny").holding(28, 28) == 32  # type: ignore[attr-defined]


# ---- schedule
def test_order_of_moves() -> None:
    game = small()
    g, path = frozenset({"gan"}), frozenset({"path_length"})
    first = [Move("generator", "data", g), Move("generator", "noise", path), Move("discriminator", "noise", MAIN)]
    assert game.moves(0) == [*first, Move("discriminator", "noise", frozenset({"r1"}))]
    assert game.moves(4) == first
    assert game.moves(1) == [first[0], first[2]]
    assert len(game.moves(16)) == 4
    plain = small(path_length=0.0, penalty={"r1": 0.0})
    assert len(plain.moves(0)) == 2


def test_adam_is_corrected_for_lazy_regularisation() -> None:
    game = build("stylegan2", "f-1024", device="meta")
    settings = game.stage(0).settings
    g, d = settings["generator"], settings["discriminator"]
    assert g["lr"] == pytest.approx(0.0016) and d["lr"] == pytest.approx(0.0018823529)
    assert g["betas"] == pytest.approx((0, 0.991992), abs=1e-6) and g["betas"][0] == 0
    assert d["betas"] == pytest.approx((0, 0.990585), abs=1e-6)
    whole = small(path_every=0, r1_every=0).stage(0).settings
    assert whole["generator"]["lr"] == 5e-3 and whole["discriminator"]["betas"] == (0.0, 0.99)


def test_the_steps_of_a_round_share_adams_state() -> None:
    game = perturbed(small())
    training = train(game, {"image": images(4)})
    steps = {
        name: {float(v["step"]) for v in optimizer.state.values()} for name, optimizer in training.optimizers.items()
    }
    assert max(steps["generator"]) == 2 and max(steps["discriminator"]) == 2  # the first round has all four
    training.play()
    steps = {name: max(float(v["step"]) for v in o.state.values()) for name, o in training.optimizers.items()}
    assert steps == {"generator": 3, "discriminator": 3}
    assert float(game.path_length_mean) > 0 and game.generator.mapping.average.any()


def test_average_of_the_generator() -> None:
    game = perturbed(small(ema_half_life_kimg=0.008, ema_ramp=0.0))
    start = game.generator.synthesis.blocks["b4"].const.detach().clone()
    training = train(game, {"image": images(8)})
    live = game.generator.synthesis.blocks["b4"].const
    twin: Any = training.average.game()
    assert torch.allclose(twin.generator.synthesis.blocks["b4"].const, 0.5 * (start + live), atol=1e-6)
    assert torch.equal(twin.generator.mapping.average, game.generator.mapping.average)


# ---- labels
def test_labels_condition_both_players() -> None:
    game = perturbed(small("cifar-labels", classes=3, channels=1, resolution=16, batch=6))
    x, label = images(6), torch.tensor([0, 1, 2, 0, 1, 2])
    assert game.discriminator.mapping is not None and game.discriminator.mapping.latent == 0
    a, b = game.discriminator(x, label), game.discriminator(x, (label + 1) % 3)
    assert a.shape == (6,) and not torch.allclose(a, b)
    z = game.draw_latents(1)
    by_class = game.sample(3, z=z.expand(3, -1))
    assert not torch.allclose(by_class[0], by_class[1], atol=1e-3)
    assert torch.allclose(game.sample(1, z=z, label=2)[0], by_class[2], atol=1e-5)
    training = train(game, {"image": x, "label": label}, rounds=2)
    assert training.counters.step == 2
    with pytest.raises(UserError, match="labels"):
        game.loss("generator", game.round({"image": x}))
    with pytest.raises(UserError, match="conditional=False"):
        small("cifar-labels", channels=1, resolution=16)


# ---- published weights
def state_of(game: Any) -> dict[str, Tensor]:
    """The game's generator under official names."""
    names = {"mapping.layers.": "mapping.fc", "mapping.average": "mapping.w_avg", "synthesis.blocks.": "synthesis."}
    names |= {".to_image.": ".torgb.", ".noise_image": ".noise_const"}
    state = {}
    for name, tensor in game.generator.state_dict().items():
        for ours, official in names.items():
            name = name.replace(ours, official)
        state[f"G.{name}"] = tensor
    return state


CONFIG: dict[str, Any] = {
    "z_dim": 6, "c_dim": 0, "w_dim": 6, "img_resolution": 16, "img_channels": 1, "mapping_kwargs": {"num_layers": 2},
    "synthesis_kwargs": {"channel_base": 64, "channel_max": 8},
}  # fmt: skip


@pytest.mark.parametrize("form", ["flat", "nested", "bare names"])
def test_official_names_and_options(form: str) -> None:
    game = perturbed(small())
    state = state_of(game)
    if form == "bare names":
        state = {name.removeprefix("G."): tensor for name, tensor in state.items()}
    config = {"G_kwargs": CONFIG} if form == "nested" else CONFIG
    loaded: Any = pretrained.load("stylegan2", state, **config)
    assert torch.equal(loaded.sample(2), game.sample(2))
    assert loaded.discriminator(images(2)).shape == (2,)


def test_weights_that_do_not_fit_are_named() -> None:
    state = state_of(small())
    del state["G.mapping.fc1.bias"]
    state["G.synthesis.b8.conv0.wieght"] = torch.zeros(1)
    state["G.synthesis.b4.const"] = torch.zeros(8, 4, 5)
    with pytest.raises(UserError, match=r"mapping\.fc1\.bias.*wieght.*b4\.const is \[8, 4, 5\], expected \[8, 4, 4\]"):
        pretrained.load("stylegan2", state, **CONFIG)
    with pytest.raises(UserError, match=r"did you mean 'z_dim'"):
        pretrained.load("stylegan2", state_of(small()), **{**CONFIG, "zdim": 6})
    with pytest.raises(UserError, match="img_resolution"):
        pretrained.load("stylegan2", state_of(small()))
    filters = {**state_of(small()), "G.synthesis.b8.resample_filter": torch.full((3, 3), 1 / 9)}
    with pytest.raises(UserError, match="another filter"):
        pretrained.load("stylegan2", filters, **CONFIG)


def test_options_of_the_official_loop() -> None:
    game: Any = pretrained.load(
        "stylegan2", state_of(small()), G_kwargs=CONFIG, loss_kwargs={"r1_gamma": 3, "pl_weight": 0}, batch_size=8,
        G_reg_interval=None, D_reg_interval=8, ema_kimg=5, opt_kwargs={"lr": 1e-3, "betas": [0, 0.9], "eps": 1e-8},
    )  # fmt: skip
    r = game.recipe
    assert (r.penalty.r1, r.path_length, r.batch, r.path_every, r.r1_every) == (3, 0, 8, 0, 8)
    assert (r.ema_half_life_kimg, r.g.lr, r.d.betas) == (5, 1e-3, (0, 0.9))
    made = Training(game, dataclasses.replace(r, batch=4), lambda *a, **k: {"image": images(4)})
    made.play()
    assert made.counters.step == 1
