"""Augmentation: what each operation does, how a batch may be cut, derivatives, and the controller."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from saddlepoint import recipes, tracking
from saddlepoint.data import Stream, open_set
from saddlepoint.engine import Training
from saddlepoint.errors import UserError
from saddlepoint.game import Round
from saddlepoint.layers import augment
from saddlepoint.layers.augment import (
    OPERATIONS,
    SETS,
    Augmentation,
    AugmentPipe,
    Controller,
    Percentile,
    Tape,
    filter_bank,
    filtered,
    margins,
    recolour,
)
from saddlepoint.recipes.base import Augment
from saddlepoint.systems import build


def a_round(n: int, **more: object) -> Round:
    return Round({}, size=n, total=n, **more)  # type: ignore[arg-type]


def smooth(n: int, channels: int, height: int, width: int) -> Tensor:
    """Images that resampling hardly changes."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
    rows = [torch.sin(2 * x + k) * torch.cos(1.5 * y - k) for k in range(n * channels)]
    return torch.stack(rows).view(n, channels, height, width)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(16, 16), (9, 14), (33, 20)])
def test_with_a_vanishing_p_it_is_the_identity(channels: int, size: tuple[int, int]) -> None:
    x = torch.rand(4, channels, *size) * 2 - 1
    pipe = AugmentPipe("bgcfnc")
    assert pipe(x, 0.0, a_round(4)) is x
    assert pipe(x, torch.zeros(()), a_round(4)) is x
    y = pipe(x, 1e-9, a_round(4))  # resampled, filtered and recoloured by the identity
    assert not torch.equal(x, y)
    assert (x - y).abs().max() < 1e-4


def test_half_of_the_chosen_flips_leave_the_image_as_it_is() -> None:
    n, p = 4000, 0.6
    x = torch.tensor([[0.0, 1.0]]).expand(n, 1, 2, 2)
    for name, expected in (("xflip", p / 2), ("rotate90", p * 3 / 4), ("lumaflip", p / 2)):
        changed = (AugmentPipe(name)(x, p, a_round(n)) - x).abs().amax((1, 2, 3)) > 0.3
        assert abs(changed.float().mean() - expected) < 0.03, name


def test_rotations_on_either_side_happen_together_with_probability_p() -> None:
    pipe, p, n = AugmentPipe("rotate"), 0.36, 5000
    draws = augment._Draws(a_round(n), "a", torch.tensor(p), torch.zeros(()))
    G = pipe.geometry(draws, 8, 8)
    assert G is not None
    turned = (G - torch.eye(3)).abs().amax((1, 2)) > 1e-6
    assert abs(turned.float().mean() - p) < 0.025


@pytest.mark.parametrize(
    ("operation", "q", "expected"),
    [
        ("lumaflip", 0.9, lambda x: x - 2 * x.mean(1, keepdim=True)),
        ("contrast", 0.75, lambda x: x * 2 ** (0.5 * torch.erfinv(torch.tensor(0.5)))),
        ("brightness", 0.75, lambda x: x + 0.2 * torch.erfinv(torch.tensor(0.5))),
        ("hue", 0.5 + 1 / 3, lambda x: x[:, [2, 0, 1]]),  # a third of a turn
    ],
)
def test_operations_with_a_closed_form(operation: str, q: float, expected: object) -> None:
    x = torch.rand(2, 3, 12, 12)
    y = AugmentPipe(operation)(x, 1.0, Percentile(q, 2))
    assert torch.allclose(y, expected(x), atol=1e-4)  # type: ignore[operator]


@pytest.mark.parametrize(
    ("operation", "q", "turned"),
    [
        ("xflip", 0.7, lambda x: x.flip(3)),
        ("rotate90", 0.3, lambda x: x.rot90(1, (2, 3))),
        ("rotate90", 0.6, lambda x: x.flip(2, 3)),
        ("rotate90", 0.9, lambda x: x.rot90(-1, (2, 3))),
        ("rotate", 0.75, lambda x: x.rot90(1, (2, 3))),
    ],
)
def test_turned_images(operation: str, q: float, turned: object) -> None:
    x = smooth(2, 3, 24, 24)
    y, expected = AugmentPipe(operation)(x, 1.0, Percentile(q, 2)), turned(x)  # type: ignore[operator]
    # The wavelet is not quite symmetric: mirrored between the filters, an image moves by a tenth of a pixel.
    assert (y - expected).abs().max() < 0.03 < 0.2 < (y - x).abs().max()


def test_an_integer_shift_shows_the_reflection() -> None:
    x = torch.rand(1, 1, 16, 16)
    y = AugmentPipe("xint")(x, 1.0, Percentile(0.999, 1))  # 12.5 % of 16: two pixels right and down
    assert torch.allclose(y[..., 2:, 2:], x[..., :-2, :-2], atol=1e-4)
    assert torch.allclose(y[..., 2:, :2], x[..., :-2, [2, 1]], atol=1e-4)


def test_saturation_and_hue_do_not_touch_grey_images() -> None:
    x = torch.rand(3, 1, 8, 8)
    assert AugmentPipe("hue,saturation")(x, 1.0, a_round(3)) is x
    grey = x.expand(-1, 3, -1, -1)
    assert torch.allclose(AugmentPipe("hue,saturation")(grey, 1.0, a_round(3)), grey, atol=1e-6)


def test_one_channel_is_a_grey_image_of_three() -> None:
    x, p = torch.rand(6, 1, 12, 10), 0.7
    pipe = AugmentPipe("blit,brightness,contrast,lumaflip,filter,cutout")
    y, grey = pipe(x, p, a_round(6)), pipe(x.expand(-1, 3, -1, -1), p, a_round(6))
    assert torch.allclose(y.expand(-1, 3, -1, -1), grey, atol=1e-5)


def test_alpha_keeps_its_colour_and_moves_with_the_image() -> None:
    x, p = smooth(4, 4, 16, 16), 0.8
    assert torch.equal(AugmentPipe("color")(x, p, a_round(4))[:, 3], x[:, 3])
    assert torch.equal(AugmentPipe("color")(x, p, a_round(4))[:, :3], AugmentPipe("color")(x[:, :3], p, a_round(4)))
    alone = AugmentPipe("bg")(x[:, 3:], p, a_round(4))
    assert torch.allclose(AugmentPipe("bg")(x, p, a_round(4))[:, 3:], alone, atol=1e-6)
    pair = AugmentPipe("bgcfnc")(x[:, :2], p, a_round(4))
    assert pair.shape == (4, 2, 16, 16) and torch.isfinite(pair).all()


def test_cutout_and_noise() -> None:
    x = torch.ones(2, 3, 16, 16)
    y = AugmentPipe("cutout")(x, 1.0, Percentile(0.5, 2))
    assert float(y.sum()) == 2 * 3 * (256 - 64) and float(y[0, 0, 8, 8]) == 0
    field = torch.randn(2, 3, 16, 16)
    y = AugmentPipe("noise")(x, 1.0, Percentile(0.5, 2, noise=field))
    assert torch.allclose(y, x + 0.1 * torch.erfinv(torch.tensor(0.5)) * field)
    assert not torch.equal(AugmentPipe("noise")(x, 1.0, Percentile(0.5, 2)), y)
    y = AugmentPipe("noise")(torch.zeros(3000, 1, 4, 4), 1.0, a_round(3000))
    assert abs(y.square().mean().sqrt() - 0.1) < 0.01  # E[(0.1 N)^2] = 0.1^2


def test_the_filter_bank_adds_up_to_the_identity() -> None:
    bank = torch.from_numpy(filter_bank())
    assert bank.shape == (4, 43)
    delta = torch.zeros(43, dtype=torch.float64)
    delta[21] = 1
    assert torch.allclose(bank.sum(0), delta, atol=1e-12)
    gain = torch.fft.rfft(bank, 512).abs()
    assert (gain.argmax(1).diff() > 0).all() and gain[0, 0] == pytest.approx(1) and gain[3, -1] == pytest.approx(1)


@pytest.mark.parametrize("size", [(30, 23), (7, 11), (4, 5)])
def test_band_filters_are_correlations_on_a_reflected_image(size: tuple[int, int]) -> None:
    x, taps = torch.randn(3, 2, *size, dtype=torch.float64), torch.randn(3, 43, dtype=torch.float64)
    y = filtered(x, taps)

    def mirrored(row: Tensor, i: int) -> Tensor:
        while not 0 <= i < len(row):
            i = -i if i < 0 else 2 * (len(row) - 1) - i
        return row[i]

    n, c, i, j = 1, 1, 3, 2
    columns = [sum(taps[n, 21 + k] * mirrored(x[n, c, :, b], i + k) for k in range(-21, 22)) for b in range(size[1])]
    by_hand = sum(taps[n, 21 + k] * mirrored(torch.stack(columns), j + k) for k in range(-21, 22))  # type: ignore[arg-type]
    assert torch.allclose(y[n, c, i, j], torch.as_tensor(by_hand))


def test_large_images_are_filtered_to_the_same_result(monkeypatch: pytest.MonkeyPatch) -> None:
    x, taps = torch.randn(3, 2, 24, 30, dtype=torch.float64), torch.randn(3, 43, dtype=torch.float64)
    dense = filtered(x, taps)
    monkeypatch.setattr(augment, "DENSE", 0)
    assert torch.allclose(filtered(x, taps), dense)


def test_large_images_are_resampled_to_the_same_result(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(3, 2, 24, 18, dtype=torch.float64)
    dense = AugmentPipe("bg")(x, 0.9, a_round(3))
    monkeypatch.setattr(augment, "DENSE", 0)
    assert torch.allclose(AugmentPipe("bg")(x, 0.9, a_round(3)), dense, atol=1e-12)


def test_margins_hold_what_the_corners_reach() -> None:
    one = torch.eye(3)[None]
    assert margins(one, 32, 32) == (6, 6, 6, 6)
    right = one.clone()
    right[0, 0, 2] = 5.0  # looks five pixels to the right
    assert margins(right, 32, 32) == (1, 6, 11, 6)
    assert margins(torch.cat([one, right]), 32, 32) == (6, 6, 11, 6)
    assert margins(one * 9, 32, 20) == (19, 31, 19, 31)  # never more than one reflection gives


def test_colours_of_a_pixel_by_hand() -> None:
    C = torch.tensor([[[1.0, 2, 0, 0.5], [0, 1, 0, 0], [0, 0, 3, -1], [0, 0, 0, 1]]])
    x = torch.tensor([0.1, 0.2, 0.3]).view(1, 3, 1, 1)
    assert torch.allclose(recolour(x, C).flatten(), torch.tensor([1.0, 0.2, -0.1]))
    assert torch.allclose(recolour(x[:, :1], C), torch.tensor(7 / 3 * 0.1 - 0.5 / 3))  # the mean of the rows


# ---- how a batch was cut
@pytest.mark.parametrize("operations", ["bgcfnc", "geom"])
def test_micro_batches_see_what_the_batch_sees(operations: str) -> None:
    x, pipe = torch.randn(6, 3, 10, 12), AugmentPipe(operations)
    whole = a_round(6, seed=4, draw=9)
    y = pipe(x, 0.7, whole)
    parts = [pipe(x[part.first : part.first + 2], 0.7, part) for part in whole.split(3)]
    assert torch.allclose(torch.cat(parts), y, atol=2e-6)
    assert not torch.allclose(pipe(x, 0.7, whole, "other"), y)
    assert not torch.allclose(pipe(x, 0.7, dataclasses.replace(whole, draw=10)), y)


def test_autocast_does_not_reach_into_it() -> None:
    x, pipe = torch.randn(4, 3, 12, 12), AugmentPipe("bgcfnc")
    y = pipe(x, 0.8, a_round(4))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(pipe(x, 0.8, a_round(4)), y)
        assert pipe(x.bfloat16(), 0.8, a_round(4)).dtype == torch.float32


# ---- derivatives
@pytest.mark.parametrize(
    ("dense", "operations", "shape", "fast"),
    [
        (256, "bgcfnc", (1, 1, 3, 4), False),
        (256, "bgcfnc", (2, 3, 5, 6), True),
        (0, "geom,filter", (1, 1, 22, 23), True),
    ],
)
def test_first_and_second_derivatives(
    dense: int, operations: str, shape: tuple[int, ...], fast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(augment, "DENSE", dense)
    pipe, round = AugmentPipe(operations), a_round(shape[0], dtype=torch.float64)
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: pipe(x, 0.9, round), x, fast_mode=fast)
    assert torch.autograd.gradgradcheck(lambda x: pipe(x, 0.9, round).square(), x, fast_mode=fast)


def test_r1_through_the_pipe_reaches_the_discriminator() -> None:
    torch.manual_seed(0)
    critic = torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(192, 8), torch.nn.Softplus(), torch.nn.Linear(8, 1)
    )
    x = torch.randn(4, 3, 8, 8, requires_grad=True)
    logits = critic(AugmentPipe("bgc")(x, 0.9, a_round(4)))
    (slope,) = torch.autograd.grad(logits.sum(), x, create_graph=True)
    penalty = slope.square().sum((1, 2, 3)).mean()
    gradients = torch.autograd.grad(penalty, [p for n, p in critic.named_parameters() if n.endswith("weight")])
    assert all(g.abs().max() > 0 for g in gradients)


# ---- names and errors
def test_sets_are_the_papers() -> None:
    assert SETS["bgc"] == SETS["blit"] + SETS["geom"] + SETS["color"] and len(SETS["bgc"]) == 12
    assert SETS["bgcfnc"] == OPERATIONS and len(OPERATIONS) == 15
    half = AugmentPipe("geom, xflip", scale=0.5, scale_std=0.3)
    assert half.multipliers["scale"] == 0.5 and half.multipliers["xflip"] == 1 and half.strengths["scale_std"] == 0.3


def test_errors_name_what_is_wrong() -> None:
    with pytest.raises(UserError, match="bgcc"):
        AugmentPipe("bgcc")
    with pytest.raises(UserError, match="scale_std"):
        AugmentPipe("geom", scale_sdt=0.3)
    with pytest.raises(UserError, match=r"3 images .* 4 samples"):
        AugmentPipe("bgc")(torch.zeros(3, 3, 8, 8), 0.5, a_round(4))
    with pytest.raises(UserError, match=r"tape .* ends before 'augment.xflip.on'"):
        AugmentPipe("xflip")(torch.zeros(3, 3, 8, 8), 0.5, Tape([torch.rand(3)]))
    with pytest.raises(UserError, match="probability"):
        Controller(1.5)


# ---- the controller
def play(controller: Controller, logits: list[float], batch: int = 64, first: int = 0) -> list[float]:
    """p after every round, with D's logit on the reals of each round."""
    found = []
    for step, logit in enumerate(logits, first):
        with tracking.collecting() as ledger:
            controller.observe(torch.full((4,), logit), a_round(4, step=step))
        tracking.commit(ledger)
        controller.advance(step + 1, batch)
        found.append(float(controller.p))
    return found


def test_p_moves_every_four_rounds_by_the_images_of_four_rounds() -> None:
    step = 64 * 4 / 500_000
    up = play(Controller(), [1.0] * 9)
    assert up == pytest.approx([0, 0, 0, step, step, step, step, 2 * step, 2 * step])
    # Three rounds of +1 and one of -1 are a mean sign of 0.5, below the target.
    assert play(Controller(p=0.5), [3.0, 2.0, 1.0, -1.0])[-1] == pytest.approx(0.5 - step)
    # A new window forgets the one before.
    assert play(Controller(p=0.5), [-1.0] * 4 + [1.0] * 4)[-1] == pytest.approx(0.5)


def test_p_stays_a_probability() -> None:
    assert play(Controller(kimg=0.5), [1.0] * 16)[-1] == 1.0
    assert play(Controller(kimg=0.5), [-1.0] * 8)[-1] == 0.0
    assert play(Controller(p=0.3, target=0), [1.0] * 8)[-1] == pytest.approx(0.3)


def test_signs_are_averaged_over_micro_batches_and_leave_no_trace_elsewhere() -> None:
    controller = Controller()
    controller.observe(torch.ones(4), a_round(4))
    assert float(controller.sign) == 0
    assert set(controller.state_dict()) == {"p", "sign"}


def test_a_resumed_controller_goes_on() -> None:
    whole, first, second = Controller(kimg=5), Controller(kimg=5), Controller(kimg=5)
    logits = [1.0, 1.0, 1.0, 1.0, -1.0, -1.0, 1.0, 1.0]
    expected = play(whole, logits)
    play(first, logits[:6])
    second.load_state_dict(first.state_dict())
    assert play(second, logits[6:], first=6)[-1] == expected[-1]


def test_an_augmentation_that_is_off_does_nothing() -> None:
    off, x = Augmentation(Augment()), torch.randn(2, 3, 8, 8)
    round = a_round(2)
    assert off(x, round, "real") is x
    off.observe(torch.ones(2), round)
    assert not round.notes
    on = Augmentation(Augment(operations="bgc", p=0.5, target=0))
    assert not torch.equal(on(x, round, "real"), on(x, round, "fake"))
    on.observe(torch.tensor([1.0, -1.0, 1.0, 1.0]), round)
    assert [float(v) for v in round.notes["augment.sign"]] == [0.5] and "augment.p" in round.notes


# ---- in a game
def a_training(**settings: object) -> Training:
    plain = {"stddev_features": 0, "path_length": 0.0, "precision": "fp32", "channels_last": False, "latent": 8, "w": 8}
    narrow = {f"{net}.{name}": 16 for net in ("g_net", "d_net") for name in ("channel_base", "channel_max")}
    pipe = {"augment.operations": "bgc", "resolution": 8, "channels": 1, "data": "digits", "batch": 8}
    recipe = recipes.recipe("stylegan2", **{**plain, **narrow, **pipe, **settings})
    return Training(build(recipe), recipe, Stream(open_set("digits", resolution=8), seed=0))


def test_gradients_through_it_do_not_depend_on_micro_batches() -> None:
    gradients = []
    for parts in (1, 2):
        made = a_training(**{"accumulate": parts, "augment.p": 0.7})
        made.table.begin()
        round = made.table.draw("data")
        gradients.append([g for g in made.table.measure("discriminator", round)[0] if g is not None])
    scale = max(float(g.abs().max()) for g in gradients[0])
    assert all((a - b).abs().max() < 5e-6 * scale for a, b in zip(*gradients, strict=True))


def test_p_moves_in_training_is_saved_and_goes_on() -> None:
    fast = {"augment.kimg": 1.0, "augment.every": 2, "augment.p": 0.5}
    whole, resumed = a_training(**fast), a_training(**fast)
    seen = []
    for _ in range(5):
        whole.play()
        seen.append(round(float(whole.game.augment.controller.p), 6))  # type: ignore[arg-type, union-attr]
    assert seen[0] == 0.5 and abs(seen[1] - seen[0]) == pytest.approx(0.016) and seen[1] == seen[2]
    tensors, values = whole.state()
    assert any(name.endswith("augment.controller.p") for name in tensors)
    resumed.load(tensors, values)
    for made in (whole, resumed):
        for _ in range(3):
            made.play()
    a, b = whole.game.state_dict(), resumed.game.state_dict()
    assert all(torch.equal(a[name], b[name]) for name in a)
