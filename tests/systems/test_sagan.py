from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from saddlepoint.errors import UserError
from saddlepoint.layers.spectral import SpectralNorm, followed, settled
from saddlepoint.systems.sagan import Attention, attention_pictures, level_widths
from tests.systems.builders import build, counts, images, train

SMALL: dict[str, Any] = {"width": 4, "critic_width": 4, "latent": 6, "classes": 3}


def label(*classes: int) -> Tensor:
    return torch.tensor(classes)


# ---- networks
@pytest.mark.parametrize(
    ("attention", "generator", "discriminator"),
    [((32,), 42_078_852, 39_463_618), ((64,), 42_017_412, 39_448_258)],
)
def test_published_parameter_counts(attention: tuple[int, ...], generator: int, discriminator: int) -> None:
    assert counts("sagan", "128", classes=1000, attention=attention) == (generator, discriminator)


def test_the_attention_layers_have_their_published_sizes() -> None:
    with_one = counts("sagan", "128", classes=1000)
    without = counts("sagan", "128", classes=1000, attention=())
    assert [a - b for a, b in zip(with_one, without, strict=True)] == [81_921, 20_481]


def test_the_class_tables_have_their_published_size() -> None:
    game = build("sagan", "128", device="meta", classes=1000)
    tables = [p for n, p in game.generator.named_parameters() if "table" in n]
    assert sum(p.numel() for p in tables) == 9_856_000 and all(len(p) == 1000 for p in tables)


def test_widths_and_the_middle_side() -> None:
    assert level_widths(64, 5) == [1024, 1024, 512, 256, 128, 64]
    assert level_widths(16, 3) == [64, 64, 32, 16]
    game = build("sagan", device="meta", resolution=32)
    assert list(game.generator.attention) == list(game.discriminator.attention) == ["16"]
    assert list(build("sagan", device="meta", resolution=128).generator.attention) == ["32"]


def test_at_the_start_attention_changes_nothing_but_is_about_to() -> None:
    """gamma is 0: the same image to the bit, a gradient for gamma, none for the layer's other weights."""
    game, z, y = build("sagan", **SMALL), torch.randn(4, 6), label(0, 1, 2, 0)
    game.eval()
    with_attention = game.generator(z, y)
    layers = game.generator.attention
    (layer,) = layers.values()
    (gamma, *others) = torch.autograd.grad(with_attention.square().sum(), [layer.gamma, *layer.theta.parameters(),
        *layer.phi.parameters(), *layer.g.parameters(), *layer.o.parameters()])  # fmt: skip
    game.generator.attention = torch.nn.ModuleDict()
    assert torch.equal(with_attention, game.generator(z, y))
    assert gamma != 0 and not any(g.any() for g in others)


def test_h_is_the_sum_over_the_last_maps() -> None:
    D = build("sagan", **SMALL).discriminator
    D.blocks = torch.nn.ModuleList()
    x = torch.full((1, 4, 4, 4), 0.5)
    small, large = D.features(x), D.features(torch.full((1, 4, 8, 8), 0.5))
    assert torch.equal(small, torch.full((1, 4), 8.0)) and torch.equal(large, 4 * small)


def test_the_projection_is_all_that_a_label_does() -> None:
    D, x = build("sagan", **SMALL).discriminator.eval(), images(3)
    h, e = D.features(x), D.embed.normalised()
    difference = D(x, label(2, 2, 2)) - D(x, label(1, 1, 1))
    assert torch.allclose(difference, h @ (e[2] - e[1]), atol=1e-5)
    with torch.no_grad():
        D.embed.weight.zero_()
    D.embed.get_buffer("u0").fill_(1.0)
    assert torch.isfinite(D(x, None)).all()


def test_samples_do_not_see_each_other_in_the_discriminator() -> None:
    D = build("sagan", **SMALL).discriminator.eval()
    a, b, y = images(2), images(3, seed=1), label(0, 1, 2, 0, 1)
    assert torch.allclose(D(torch.cat([a, b]), y), torch.cat([D(a, y[:2]), D(b, y[2:])]), atol=1e-5)


def test_the_largest_singular_value_of_every_normalised_weight_is_one() -> None:
    game = build("sagan", **SMALL)
    settled(game, steps=200)
    game.eval()
    layers = followed(game)
    assert len(layers) == 1 + 2 * 3 + 4 + 1 + 3 * 3 - 1 + 4 + 2  # first, up blocks, attention, output; down blocks, ...
    for layer in layers:
        assert isinstance(layer, SpectralNorm)
        largest = torch.linalg.matrix_norm(layer.normalised().detach().flatten(1), 2)
        assert float(largest) == pytest.approx(1, abs=1e-3)


def test_spectral_norm_can_be_switched_off_in_either_player() -> None:
    game = build("sagan", **SMALL, spectral_g=False)
    game.eval()
    assert all(layer.normalised() is layer.weight for layer in followed(game.generator))
    assert all(layer.normalised() is not layer.weight for layer in followed(game.discriminator))


# ---- the game
def test_the_hinge_at_logits_of_zero_is_two_and_beyond_the_margin_nothing() -> None:
    game = build("sagan", **SMALL)
    round = game.round({"image": images(4), "label": label(0, 1, 2, 0)}, seed=3)
    with torch.no_grad():
        game.discriminator.output.weight.zero_()
        game.discriminator.embed.weight.zero_()
    game.discriminator.forward = lambda x, y: torch.zeros(len(x), requires_grad=True)  # type: ignore[method-assign]
    assert game.loss("discriminator", round)["gan"].item() == 2
    assert game.loss("generator", round)["gan"].item() == 0
    real = game.objective.discriminator(torch.tensor([1.5]), torch.tensor([-1.5]))
    assert real.item() == 0


def test_fakes_have_uniform_classes_or_those_of_the_data() -> None:
    game = build("sagan", **SMALL)
    y = torch.zeros(600, dtype=torch.int64)
    round = game.round({"image": images(600, 8), "label": y}, seed=3)
    counts_ = game.fake_label(round).bincount(minlength=3)
    assert counts_.sum() == 600 and counts_.min() > 150
    other = build("sagan", **SMALL, labels="data")
    assert torch.equal(other.fake_label(round), y)


def test_without_labels_nothing_is_conditional() -> None:
    game = build("sagan", **{**SMALL, "classes": 0})
    assert game.discriminator.embed is None and not any("table" in n for n, _ in game.named_parameters())
    assert build("sagan", **SMALL, conditional=False).discriminator.embed is None


def test_two_learning_rates() -> None:
    recipe = build("sagan", "128", device="meta").recipe
    assert (recipe.g.lr, recipe.d.lr, recipe.g.betas, recipe.g.steps, recipe.d.steps) == (1e-4, 4e-4, (0.0, 0.9), 1, 1)


# ---- use
def test_classes_in_turn_one_for_all_or_mixed() -> None:
    game = build("sagan", **SMALL)
    z = game.draw_latents(3)
    with torch.no_grad():
        for name, table in game.generator.named_parameters():
            if "table" in name:
                table.normal_()
    turn = game.sample(3, z=z)
    assert torch.equal(turn, game.sample(3, z=z, label=[0, 1, 2]))
    one = game.sample(3, z=z, label=1)
    assert torch.allclose(one[1], turn[1], atol=1e-6) and not torch.allclose(one[0], turn[0], atol=1e-3)
    path = game.interpolate_classes(z[0], 0, 2, 5)
    assert torch.allclose(path[[0, -1]], game.sample(2, z=z[:1].expand(2, -1), label=[0, 2]), atol=1e-5)
    assert not torch.allclose(path[2], path[0], atol=1e-3)


def test_attention_maps_are_shares_of_what_a_position_takes() -> None:
    game = build("sagan", **SMALL)
    found = game.attention(3, seed=1)
    assert torch.equal(found.images, game.sample(3, seed=1))
    assert found.weights.shape == (3, 8, 8, 4, 4)
    assert torch.allclose(found.weights.sum((3, 4)), torch.ones(3, 8, 8), atol=1e-5)
    judged = game.attention(images=images(2))
    assert judged.weights.shape == (2, 8, 8, 4, 4) and judged.images.shape == (2, 1, 16, 16)


def test_attention_pictures_light_what_is_looked_at() -> None:
    weights = torch.zeros(1, 8, 8, 4, 4)
    weights[0, 2, 6, 3, 0] = 1  # the position at (2, 6) looks at the lower left corner
    pictures = attention_pictures(Attention(torch.full((1, 1, 16, 16), -1.0), weights), [(0.25, 0.75)])
    image, look = pictures
    assert pictures.shape == (2, 3, 16, 16)
    assert torch.allclose(image[:, 4:6, 12:14], look[:, 4:6, 12:14])  # the point itself
    assert (image[:, 0, 0] == -1).all() and torch.allclose(look[:, 14, 1], image[:, 4, 12], atol=0.1)
    assert (look[:, 0, 0] == -1).all()


def test_errors_name_the_nearest_choice() -> None:
    with pytest.raises(UserError, match="nearest: 16"):
        build("sagan", **SMALL, attention=(17,))
    with pytest.raises(UserError, match="has no attention"):
        build("sagan", **SMALL, attention=()).attention()
    with pytest.raises(UserError, match="there is no class 3"):
        build("sagan", **SMALL).sample(1, label=3)


def test_training_moves_the_attention_and_the_vectors_of_the_power_iteration() -> None:
    game = build("sagan", **SMALL)
    layer = game.discriminator.attention["8"]
    u = layer.o.get_buffer("u0").clone()
    train(game, {"image": images(4), "label": label(0, 1, 2, 0)}, 2)
    assert layer.gamma != 0 and not torch.equal(layer.o.get_buffer("u0"), u)
    assert float(torch.linalg.vector_norm(layer.o.get_buffer("u0"))) == pytest.approx(1, abs=1e-5)
