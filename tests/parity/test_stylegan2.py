"""StyleGAN2 against tensors of the official PyTorch code (NVlabs/stylegan2-ada-pytorch)."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from saddlepoint import pretrained, tracking
from saddlepoint.engine import Training
from saddlepoint.game import Game, Round
from saddlepoint.layers.modulated import modulated_conv2d
from saddlepoint.layers.resample import setup_filter
from saddlepoint.penalties import slope
from tests.parity.official import Official

LAYERS = ("b4.conv1", "b8.conv0", "b8.conv1", "b16.conv0", "b16.conv1", "b32.conv0", "b32.conv1")


class Case(Official):
    set = "stylegan2"

    def noise(self, tape: str, first: int = 0) -> Callable[..., Tensor]:
        """The recorded noise images of a tape, by the layer's name."""
        return lambda name, *shape: self.tensors[f"in/draw.{tape}.{first + LAYERS.index(name):02d}.randn"]


def parameters(network: torch.nn.Module) -> dict[str, Tensor]:
    """Parameters by their official names."""
    named = {}
    inverse = {
        r"^mapping\.layers\.(\d+)\.": r"mapping.fc\1.",
        r"^epilogue\.conv\.": "b4.conv.",
        r"^epilogue\.dense\.": "b4.fc.",
        r"^epilogue\.output\.": "b4.out.",
        r"^epilogue\.from_image\.": "b4.fromrgb.",
        r"blocks\.(b\d+)\.": r"\1.",
        r"\.to_image\.": ".torgb.",
        r"\.from_image\.": ".fromrgb.",
    }
    for name, parameter in network.named_parameters():
        for pattern, replacement in inverse.items():
            name = re.sub(pattern, replacement, name)
        named[name] = parameter
    return named


# ---- generators
@pytest.mark.parametrize("name", ["generator_cond", "generator_resnet"])
class TestGenerator:
    def made(self, parity: Path, name: str) -> tuple[Case, Any, Tensor | None]:
        case = Case(parity, name)
        game = pretrained.load("stylegan2", case.part("weights/"), **case.config)
        return case, game.generator.eval(), case.tensors.get("in/c")

    def test_mapping(self, parity: Path, name: str) -> None:
        case, G, c = self.made(parity, name)
        z = case["in/z"]
        case.close("out/ws", G.mapping(z, c))
        case.close("out/ws_psi0.7", G.mapping(z, c, truncation=0.7))
        case.close("out/ws_psi0.5_cutoff4", G.mapping(z, c, truncation=0.5, cutoff=4))

    def test_running_mean_of_w(self, parity: Path, name: str) -> None:
        case, G, c = self.made(parity, name)
        z = case["in/z"]
        G.train()
        with tracking.collecting() as ledger:
            case.close("out/ws_train", G.mapping(z, c))
        tracking.commit(ledger)
        case.close("out/w_avg_after_one_train_call", G.mapping.average)
        with tracking.collecting() as ledger:
            G.mapping(z[:1], None if c is None else c[:1])
        tracking.commit(ledger)
        case.close("out/w_avg_after_second_train_call_sample0_only", G.mapping.average)

    def test_images(self, parity: Path, name: str) -> None:
        case, G, c = self.made(parity, name)
        z, ws = case["in/z"], case["out/ws"]
        seen: dict[str, tuple[Tensor, Tensor | None]] = {}
        for key, block in G.synthesis.blocks.items():
            block.register_forward_hook(lambda m, i, o, key=key: seen.__setitem__(key, o))
        case.close("out/img_const", G(z, c))
        for key, (x, image) in seen.items():
            case.close(f"out/{key}.x", x)
            if f"out/{key}.img" in case.tensors:
                assert image is not None
                case.close(f"out/{key}.img", image)
        case.close("out/img_const", G.synthesis(ws, fused=True))
        case.close("out/img_const_nonfused", G.synthesis(ws))
        case.close("out/img_const_batch1", G(z[1:2], None if c is None else c[1:2]))
        case.close("out/img_none", G.synthesis(ws, noise="none"))
        case.close("out/img_random", G.synthesis(ws, noise=case.noise("noise")))
        case.close("out/img_const_psi0.7", G(z, c, truncation=0.7))
        mixed = torch.cat([ws[:1, :3], ws[1:2, 3:]], 1)
        case.close("out/ws_mixed_0_to_3_from_sample0_rest_sample1", mixed)
        case.close("out/img_mixed_const", G.synthesis(mixed))

    def test_gradients(self, parity: Path, name: str) -> None:
        case, G, c = self.made(parity, name)
        z = case["in/z"].requires_grad_()
        ws = G.mapping(z, c)
        scalar = (G.synthesis(ws) * case["in/cot"]).sum()
        # A sum over thousands of terms that cancel: its error is that of its terms.
        case.close("out/scalar_sum_img_const_times_cot", scalar, absolute=1e-4)
        named = parameters(G)
        wanted = {"z": z, "ws": ws, **{n: named[n] for n in case.config["grad_names"]}}
        found = torch.autograd.grad(scalar, list(wanted.values()))
        for key, gradient in zip(wanted, found, strict=True):
            case.close(f"grad/{key}", gradient)


# ---- discriminators
def test_residual_discriminator_with_projection(parity: Path) -> None:
    case = Case(parity, "discriminator_resnet")
    D: Any = pretrained.load("stylegan2", case.part("weights/"), **case.config).discriminator
    x, c = case["in/img"].requires_grad_(), case["in/c"]
    seen: dict[str, Any] = {}
    for key, block in [*D.blocks.items(), ("stddev", D.epilogue.stddev), ("cmap", D.mapping)]:
        block.register_forward_hook(lambda m, i, o, key=key: seen.__setitem__(key, o))
    logits = D(x, c)
    case.close("out/logits_batch8", logits[:, None])
    for key in ("b32", "b16", "b8"):
        case.close(f"out/{key}.x", seen[key][0])
    case.close("out/cmap", seen["cmap"])
    case.close("out/mbstd_channel", seen["stddev"][:, -1:])
    for n in (3, 1):
        case.close(f"out/logits_batch{n}", D(x[:n], c[:n])[:, None])
    scalar = F.softplus(-logits).mean()
    case.close("out/scalar_mean_softplus_neg_logits", scalar)
    named = parameters(D)
    wanted = {"img": x, **{n: named[n] for n in case.config["grad_names"]}}
    for key, gradient in zip(wanted, torch.autograd.grad(scalar, list(wanted.values())), strict=True):
        case.close(f"grad/{key}", gradient)
    squared = slope(lambda images: D(images, c), case["in/img"].detach())[1]
    case.close("out/r1_penalty_per_sample", squared)
    del wanted["img"]
    for key, gradient in zip(wanted, torch.autograd.grad(squared.mean(), list(wanted.values())), strict=True):
        case.close(f"grad/r1.{key}", gradient)


@pytest.mark.parametrize("variant", ["orig", "skip", "nombstd"])
def test_other_discriminators(parity: Path, variant: str) -> None:
    case = Case(parity, "discriminator_variants")
    game: Any = pretrained.load(
        "stylegan2", case.part(f"weights/{variant}/"), **case.config["variants"][variant]
    )  # fmt: skip
    x = case[f"in/{variant}.img"].requires_grad_()
    logits = game.discriminator(x)
    case.close(f"out/{variant}.logits", logits[:, None])
    case.close(f"grad/{variant}.img", torch.autograd.grad(logits.square().sum(), x)[0])


# ---- operations
@pytest.mark.parametrize("index", range(6))
@pytest.mark.parametrize("fused", [False, True])
def test_modulated_convolution(parity: Path, index: int, fused: bool) -> None:
    case, key = Case(parity, "ops"), f"modulated_conv2d.{index:02d}"
    op = next(op for op in case.config["ops"] if op["id"] == key)
    x, w, styles = (case[f"in/{key}.{n}"].requires_grad_() for n in ("x", "w", "styles"))
    y = modulated_conv2d(
        x, w, styles, case.tensors.get(f"in/{key}.noise"), up=op["up"], down=op["down"], padding=op["padding"],
        resample_filter=setup_filter(op["f"]), demodulate=op["demodulate"], flip_weight=op.get("flip_weight", True),
        fused=fused,
    )  # fmt: skip
    case.close(f"out/{key}.y", y)
    case.close(f"out/{key}.y_nonfused", y)
    weights = torch.cos(0.7 * torch.arange(y.numel(), dtype=torch.float64)).float().view(y.shape)
    gradients = torch.autograd.grad((y * weights).sum(), (x, w, styles), create_graph=True)
    for n, gradient in zip(("x", "w", "styles"), gradients, strict=True):
        case.close(f"grad/{key}.{n}", gradient)
    second = torch.autograd.grad(gradients[0].square().sum(), (w, styles))
    for n, gradient in zip(("w", "styles"), second, strict=True):
        case.close(f"grad/{key}.{n}.second", gradient)


# ---- losses and the step
class Tape(Round):
    """A round whose numbers are those that the official code drew, by our names for them."""

    def _drawn(self, kind: str, name: str, shape: tuple[int, ...], fill: Callable[..., Tensor]) -> Tensor:
        return self.numbers[(name,)]


def doubled(x: Tensor) -> Tensor:
    """Rows for every second sample; those between must not be read."""
    rows = torch.full((2 * len(x), *x.shape[1:]), float("nan"))
    rows[::2] = x
    return rows


def numbers(case: Case, tape: str, z: str, *, path: bool = False, first: int = 0) -> dict[tuple[object, ...], Tensor]:
    """One call of the official generator in training: cutoff, coin, second z, noise per layer; then y."""
    kept = [k for k in sorted(case.tensors) if k.startswith(f"in/draw.{tape}.")]
    kept = kept[first : first + 9] if path else kept[first : first + 8]
    copies = 6
    head, rows = ("path.", doubled) if path else ("", lambda x: x)
    cutoff = case[kept[0]].float()
    latents = case[f"in/z.{z}"]
    made: dict[tuple[object, ...], Tensor] = {
        (f"{head}z",): doubled(latents[: len(latents) // 2]) if path else latents,
        (f"{head}mix.layer",): (cutoff - 1 + 0.5) / (copies - 1),
        (f"{head}mix",): case[kept[1]],
        (f"{head}z2",): rows(case[kept[2]]),
    }
    for layer, key in zip(LAYERS, kept[3:8], strict=False):
        made[(f"{head}noise.{layer}",)] = rows(case[key])
    if path:
        made[("path.y",)] = rows(case[kept[8]])
    return made


def tape(case: Case, batch: Mapping[str, Tensor], made: dict[tuple[object, ...], Tensor], *terms: str) -> Round:
    n = len(next(iter(batch.values())))
    asked = frozenset(terms) or None
    return Tape(dict(batch), size=n, total=n, numbers=made, terms=asked, analysis=False, step=0)


def phases(case: Case) -> dict[str, tuple[str, Round]]:
    fake = {"label": case["in/gen_c"], "image": case["in/real_img"]}
    real = {"label": case["in/real_c"], "image": case["in/real_img"]}
    both = {**numbers(case, "Gboth", "Gboth"), **numbers(case, "Gboth", "Gboth", path=True, first=8)}
    return {
        "Gmain": ("generator", tape(case, fake, numbers(case, "Gmain", "Gmain"), "gan")),
        "Greg1": ("generator", tape(case, fake, numbers(case, "Greg1", "Greg1", path=True), "path_length")),
        "Greg2": ("generator", tape(case, fake, numbers(case, "Greg2", "Greg2", path=True), "path_length")),
        "Dmain": ("discriminator", tape(case, real, numbers(case, "Dmain", "Dmain"), "gan")),
        "Dreg": ("discriminator", tape(case, real, {}, "r1")),
        "Dboth": ("discriminator", tape(case, real, numbers(case, "Dboth", "Dboth"))),
        "Gboth": ("generator", tape(case, fake, both)),
    }


def with_labels_of_fakes(game: Any, label: Tensor) -> None:
    """The recorded losses drew other labels for fakes; ours are the real batch's."""
    styles, judged = game.styles, game.judged

    def styles_of(round: Round, rows: slice, name: str = "") -> Tensor:
        # Officially path lengths see the first half of the labels.
        mine = label[: len(label) // 2].repeat_interleave(2, 0) if name == "path." else label
        return styles(dataclasses.replace(round, batch={**round.batch, "label": mine}), rows, name)

    def judged_as(round: Round, name: str) -> Callable[[Tensor], Tensor]:
        other = dataclasses.replace(round, batch={**round.batch, "label": label}) if name == "fake" else round
        return judged(other, name)

    game.styles, game.judged = styles_of, judged_as


def test_losses_in_sequence(parity: Path) -> None:
    case = Case(parity, "losses")
    game: Any = pretrained.load("stylegan2", case.part("weights/"), **case.config).train()
    with_labels_of_fakes(game, case["in/gen_c"])
    assert float(game.path_length_mean) == pytest.approx(case.config["pl_mean_before"])
    reported = {
        "Gmain": ["Loss/G/loss"], "Greg1": ["Loss/G/reg"], "Greg2": ["Loss/G/reg"], "Dmain": ["Loss/D/loss"],
        "Dreg": ["Loss/D/reg"], "Dboth": ["Loss/D/loss", "Loss/D/reg"], "Gboth": ["Loss/G/loss", "Loss/G/reg"],
    }  # fmt: skip
    for phase, (player, round) in phases(case).items():
        gain = case.config["gains"][phase]
        interval = 1.0 if phase.endswith("both") else float(gain)
        if phase.endswith("both"):  # in one step there is no interval
            game.recipe = dataclasses.replace(game.recipe, path_every=0, r1_every=0)
        with tracking.collecting() as ledger:
            terms = game.loss(player, round)
        assert len(terms) == len(reported[phase]), phase
        for term, name in zip(terms.values(), reported[phase], strict=True):
            expected = case[f"out/{phase}.{name}"].mean() * (interval if name.endswith("reg") else 1.0)
            assert float(term) == pytest.approx(float(expected), rel=case.tolerance, abs=1e-7), (phase, name)
        network = game.get_submodule(player)
        named = parameters(network)
        names = case.config["grad_names"]["G" if player == "generator" else "D"]
        found = torch.autograd.grad(sum(terms.values()), [named[n] for n in names], allow_unused=True)
        for name, gradient in zip(names, found, strict=True):
            key = f"grad/{phase}.{name}"
            if gradient is None or key not in case.tensors:
                assert key not in case.tensors or not case[key].any(), key
            else:
                case.close(key, gradient)
        tracking.commit(ledger)
        if f"out/{phase}.pl_mean_after" in case.tensors:
            case.close(f"out/{phase}.pl_mean_after", game.path_length_mean)
    case.close("out/w_avg_after_all", game.generator.mapping.average)


def test_one_training_step_in_the_official_order(parity: Path) -> None:
    case = Case(parity, "train_step")
    game: Any = pretrained.load("stylegan2", case.part("weights/"), **case.config)
    training = Training(game, game.recipe)
    training.table.begin()
    moves = game.moves(0)
    assert [m.player for m in moves] == ["generator", "generator", "discriminator", "discriminator"]
    for phase, move in zip(("Gmain", "Greg", "Dmain", "Dreg"), moves, strict=True):
        fake = case[f"in/c.{phase}"]
        with_labels_of_fakes(fresh := game, fake)
        batch = {"image": case["in/real_img"], "label": case["in/real_c"]}
        made = {} if phase == "Dreg" else numbers(case, phase, phase, path=phase == "Greg")
        round = dataclasses.replace(tape(case, batch, made), terms=move.terms)
        gradients, _ = training.table.measure(move.player, round)
        del fresh.styles, fresh.judged
        letter = "G" if move.player == "generator" else "D"
        names = list(parameters(game.get_submodule(move.player)))
        for name, gradient in zip(names, gradients, strict=True):
            key = f"grad/{phase}.{letter}/{name}"
            if key in case.tensors and gradient is not None:
                case.close(key, gradient, absolute=6e-5 if phase == "Dreg" and name.endswith("bias") else 0.0)
            else:
                assert key not in case.tensors or not case[key].any(), key
        training.table.write(move.player, gradients)
        for key, expected in case.part(f"out/after_{phase}/{letter}/").items():
            found = parameters(game.get_submodule(move.player))[key]
            case.close(f"out/after_{phase}/{letter}/{key}", found)
            assert found.shape == expected.shape
    case.close("out/G/mapping.w_avg_after", game.generator.mapping.average)
    training.average.update(case.config["batch_size"], case.config["batch_size"])
    twin: Game = training.average.game()
    averaged = parameters(twin.get_submodule("generator"))
    averaged["mapping.w_avg"] = twin.get_submodule("generator.mapping").average  # type: ignore[assignment]
    for name in case.config["ema_names"]:
        case.close(f"out/G_ema/{name}", averaged[name])
    assert float(case["out/ema_beta"]) == pytest.approx(0.5 ** (4 / 20))
