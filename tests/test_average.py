from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from saddlepoint import api, recipes
from saddlepoint.average import Average, load_averaged, restore, settle
from saddlepoint.errors import UserError
from saddlepoint.game import Game, Player, Round, Terms
from saddlepoint.layers.normalisation import BatchNorm
from saddlepoint.recipes.base import Optimizer
from saddlepoint.systems.dcgan import DCGAN
from tests.games import Small, same_bits, snapshot, spiral, training


class One(Game):
    """One averaged number."""

    averaged = ("generator",)

    def __init__(self, value: float = 0.0) -> None:
        super().__init__()
        self.generator = nn.Linear(1, 1, bias=False).double()
        nn.init.constant_(self.generator.weight, value)
        self.players = (Player("generator", self.generator, lambda round: {}),)


def weight(game: Game) -> float:
    return float(game.generator.weight.detach())  # type: ignore[union-attr]


# ---- the arithmetic


@given(
    half_life=st.floats(1, 1000),
    rounds=st.lists(st.tuples(st.integers(1, 300), st.floats(-5, 5)), min_size=1, max_size=10),
)
def test_after_a_half_life_an_old_weight_counts_half(half_life: float, rounds: list[tuple[int, float]]) -> None:
    game = One(1.0)
    average = Average(game, half_life)
    expected, seen = 1.0, 0
    for images, value in rounds:
        nn.init.constant_(game.generator.weight, value)
        seen += images
        average.update(images, seen)
        keep = math.exp(-math.log(2) * images / half_life)
        expected = keep * expected + (1 - keep) * value
    assert weight(average.twin) == pytest.approx(expected, abs=1e-9)


def test_the_batch_size_does_not_matter_to_a_half_life() -> None:
    averages = []
    for batch in (10, 50, 100):
        game = One(1.0)
        average = Average(game, 100)
        nn.init.constant_(game.generator.weight, 0.0)
        for i in range(100 // batch):
            average.update(batch, (i + 1) * batch)
        averages.append(weight(average.twin))
    assert averages == pytest.approx([0.5] * 3, abs=1e-12)


def test_the_ramp_shortens_the_half_life_early_on() -> None:
    game = One(1.0)
    average = Average(game, half_life=1000, ramp=0.05)
    nn.init.constant_(game.generator.weight, 0.0)
    expected = 1.0
    for i in range(1, 11):
        average.update(64, 64 * i)
        expected *= 0.5 ** (64 / min(1000, 0.05 * 64 * i))
    assert weight(average.twin) == pytest.approx(expected, abs=1e-12)
    assert expected < 1e-12  # the first random weights are gone
    late = Average(One(1.0), half_life=1000, ramp=0.05)
    nn.init.constant_(late.live_weights[0], 0.0)
    late.update(1000, 10**6)  # beyond the ramp the half-life is its own
    assert weight(late.twin) == pytest.approx(0.5, abs=1e-12)


def test_no_images_no_change() -> None:
    average = Average(One(1.0), 10, 0.05)
    nn.init.constant_(average.live_weights[0], 0.0)
    average.update(0, 0)
    assert weight(average.twin) == 1.0


# ---- the twin


def test_the_twin_shares_what_is_not_averaged_and_owns_what_is() -> None:
    game = Small(norm=True, pool=4)
    twin = Average(game, 100).twin
    assert twin is not game
    assert twin.discriminator is game.discriminator
    assert twin.generator is not game.generator
    for name in ("mean_w", "pool", "pushed"):  # buffers of the game itself: a twin with its own would lag forever
        assert getattr(twin, name) is getattr(game, name)
    for a, b in zip(twin.generator.parameters(), game.generator.parameters(), strict=True):
        assert a is not b
        assert a.data_ptr() != b.data_ptr()
        assert torch.equal(a, b)
        assert not a.requires_grad
        assert b.requires_grad
    assert twin.mapping is twin.generator[0]  # one module under two names stays one
    assert twin.player("discriminator").parameters[0] is game.player("discriminator").parameters[0]


def test_a_shared_part_inside_a_container_is_shared() -> None:
    class Nested(Game):
        averaged = ("networks.generator",)

        def __init__(self) -> None:
            super().__init__()
            self.networks = nn.ModuleDict({"generator": nn.Linear(2, 2), "vgg": nn.Linear(2, 2)})
            self.players = (Player("g", self.networks["generator"], lambda round: {}),)

    game = Nested()
    twin = Average(game, 100).twin
    assert twin.networks["vgg"] is game.networks["vgg"]
    assert twin.networks["generator"] is not game.networks["generator"]


@pytest.mark.parametrize("half_life", [0.0, 100.0])
def test_without_an_average_the_game_itself_is_sampled(half_life: float) -> None:
    class Unaveraged(Small):
        averaged = () if half_life else ("generator",)

    game = Unaveraged()
    average = Average(game, half_life)
    assert average.game() is game
    assert average.state() == {}
    average.update(10, 10)


def run_of(rounds: int = 3, **options: Any) -> Any:
    run = training(
        Small(norm=True, **options), optimizer=Optimizer(lr=0.05), source=spiral, batch=8, ema_half_life_kimg=0.02
    )
    for _ in range(rounds):
        run.play()
    return run


def test_the_engine_averages_by_images_of_the_first_player() -> None:
    run = training(Small(), optimizer=Optimizer(lr=0.05), source=spiral, batch=8, ema_half_life_kimg=0.02, ema_ramp=0)
    expected = run.game.generator[0].weight.detach().clone()
    for _ in range(4):
        run.play()
        expected = torch.lerp(expected, run.game.generator[0].weight.detach(), 1 - 0.5 ** (8 / 20))
    torch.testing.assert_close(run.average.twin.generator[0].weight, expected, rtol=1e-6, atol=1e-7)


def test_sampling_from_the_twin_leaves_the_live_game_untouched() -> None:
    run = run_of()
    before, _ = snapshot(run)
    generator = {k: v.clone() for k, v in run.game.generator.state_dict().items()}
    images = run.average.game().sample(5, seed=2)
    assert same_bits({k: v.detach() for k, v in run.game.generator.state_dict().items()}, generator)
    after, _ = snapshot(run)
    game = {k: v for k, v in before.items() if not k.startswith("average")}
    assert same_bits(game, {k: v for k, v in after.items() if not k.startswith("average")})
    assert all(module.training for module in run.game.modules())
    assert not torch.equal(images, run.game.sample(5, seed=2))
    assert images.shape == (5, 2)


def test_settling_is_a_pure_function_of_the_weights() -> None:
    run = run_of()
    first = {k: v.clone() for k, v in run.average.game().generator.state_dict().items()}
    torch.manual_seed(99)
    again = run.average.game().generator.state_dict()
    assert same_bits(first, {k: v.clone() for k, v in again.items()})
    images = run.average.game().sample(4)
    assert torch.equal(run.average.game().sample(4), images)
    own = copy.deepcopy(run.average.twin)
    own.generator[2].running_mean.fill_(100.0)  # whatever the statistics were before
    own.generator[2].running_var.fill_(100.0)
    settle(own)
    assert same_bits(first, {k: v.clone() for k, v in own.generator.state_dict().items()})


def test_settled_statistics_are_those_of_the_averaged_weights() -> None:
    """BN right after the first layer: its input's mean is known, the generator's samples are the population."""
    run = run_of()
    live = run.game.generator[2].running_mean.clone()
    twin = run.average.game()
    mapping, linear, norm = twin.generator[0], twin.generator[1], twin.generator[2]
    # sample() draws z ~ N(0, I): the mean of linear(mapping(z)) is linear(mapping(0)), its covariance A A^T
    a = linear.weight @ mapping.weight
    mean = linear(mapping(torch.zeros(1, 3))).squeeze(0)
    torch.testing.assert_close(norm.running_mean, mean, rtol=0, atol=0.15)
    torch.testing.assert_close(norm.running_var, (a @ a.T).diagonal(), rtol=0.2, atol=0.05)
    exact = torch.stack([collected_mean(twin, seed) for seed in range(4)]).mean(0)  # 4 batches of 128
    torch.testing.assert_close(norm.running_mean, exact, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(live, norm.running_mean, atol=1e-3)
    assert not norm.batch_statistics


def collected_mean(game: Any, seed: int) -> Tensor:
    inputs: list[Tensor] = []
    handle = game.generator[2].register_forward_hook(lambda module, args, out: inputs.append(args[0].mean(0)))
    game.sample(128, seed)
    handle.remove()
    return inputs[0]


def test_settling_respects_layers_that_sample_with_batch_statistics() -> None:
    run = run_of(0)
    twin = run.average.twin
    twin.generator[2].batch_statistics = True
    before = twin.generator[2].running_mean.clone()
    settle(twin)
    assert torch.equal(twin.generator[2].running_mean, before)
    assert twin.generator[2].batch_statistics


def test_an_error_while_settling_leaves_no_switch_behind() -> None:
    class Failing(Small):
        def sample(self, n: int, seed: int = 0, **controls: Any) -> Tensor:
            raise RuntimeError

    game = Failing(norm=True)
    with pytest.raises(RuntimeError):
        settle(game)
    assert not any(m.batch_statistics for m in game.modules() if isinstance(m, BatchNorm))


def test_settle_without_batch_norm_does_not_sample() -> None:
    class Unsampled(Small):
        def sample(self, n: int, seed: int = 0, **controls: Any) -> Tensor:
            raise AssertionError

    settle(Unsampled())


def test_the_average_starts_from_the_prepared_game() -> None:
    """The 2014 GAN fits its output's bias to the data before the first round; samples of the average show that."""
    recipe = api.prepared(recipes.recipe("gan", "tiny", resolution=8), "digits")
    run = api._training(recipe, torch.device("cpu"))
    bias = run.average.twin.get_submodule("generator").get_parameter("output.bias")
    assert bias.std() > 0.5
    assert torch.equal(bias, run.game.get_submodule("generator").get_parameter("output.bias"))


# ---- saving


def test_state_and_load() -> None:
    run = run_of()
    state = {k: v.clone() for k, v in run.average.state().items()}
    assert all(name.startswith("generator.") for name in state)
    other = Average(Small(norm=True, seed=7), 20)
    other.load(state)
    assert same_bits({k: v.clone() for k, v in other.state().items()}, state)
    plain = Small(norm=True, seed=8)
    load_averaged(plain, state)
    assert same_bits({k: v.detach() for k, v in plain.generator.state_dict().items()},
                     {k.removeprefix("generator."): v for k, v in state.items()})  # fmt: skip
    untouched = Small(seed=8)
    before = untouched.generator[0].weight.detach().clone()
    load_averaged(untouched, {})  # a run without an average
    assert torch.equal(untouched.generator[0].weight, before)


def test_a_saved_and_a_live_average_sample_the_same() -> None:
    run = run_of()
    expected = run.average.game().sample(4, seed=3)
    tensors, _ = snapshot(run)
    game = Small(norm=True, seed=5)
    game.load_state_dict({k.removeprefix("game/"): v for k, v in tensors.items() if k.startswith("game/")})
    load_averaged(game, {k.removeprefix("average/"): v for k, v in tensors.items() if k.startswith("average/")})
    assert torch.equal(game.sample(4, seed=3), expected)


def test_dcgans_twin_samples() -> None:
    recipe = recipes.recipe("dcgan", resolution=8, channels=1, width=4, latent=4)
    torch.manual_seed(0)
    game = DCGAN(recipe)  # type: ignore[arg-type]
    average = Average(game, 100)
    assert average.twin.discriminator is game.discriminator
    images = average.game().sample(3)
    assert images.shape == (3, 1, 8, 8)
    assert images.abs().max() <= 1
    assert game.training


def test_the_loss_of_the_twin_reaches_shared_weights_only() -> None:
    game = Small()
    twin = Average(game, 100).twin
    round: Round = game.round(spiral(0, 4, 0, 4))
    terms: Terms = twin.loss("discriminator", round)
    (gradient,) = torch.autograd.grad(terms["fake"], game.discriminator[0].weight)
    assert gradient.abs().max() > 0


# ---- tensors of another network
def test_a_checkpoint_that_does_not_fit_names_what_and_changes_nothing() -> None:
    module = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    state = {**before, "0.weight": torch.zeros(4, 2), "centres": torch.zeros(1), "1.weight": torch.ones(1, 3)}
    del state["1.bias"]
    with pytest.raises(UserError) as told:
        restore(module, state)
    for words in ("1.bias is not there", "centres is not here", "0.weight is [4, 2] there, [3, 2] here", "--init-from"):
        assert words in str(told.value)
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())


def test_another_shape_alone_does_not_fit() -> None:
    with pytest.raises(UserError, match=r"now: weight is \[1, 2\] there, \[1, 3\] here\. It comes"):
        restore(nn.Linear(3, 1, bias=False), {"weight": torch.zeros(1, 2)})


def test_many_that_do_not_fit_are_counted() -> None:
    state = {f"{i}.weight": torch.zeros(1) for i in range(9)}
    with pytest.raises(UserError, match=r"0\.weight is not here; .* and 5 more\."):
        restore(nn.Module(), state)
