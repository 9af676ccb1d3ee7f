"""BigGAN against tensors of the official code (ajbrock/BigGAN-PyTorch, huggingface/pytorch-pretrained-BigGAN)."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from saddlepoint import pretrained, recipes, tracking
from saddlepoint.average import Average
from saddlepoint.engine import build_optimizer
from saddlepoint.errors import UserError
from saddlepoint.layers.attention import SelfAttention
from saddlepoint.layers.conditional import ConditionalNorm, standing, standing_statistics, truncated
from saddlepoint.layers.normalisation import BatchNorm
from saddlepoint.layers.spectral import Spectral, SpectralConv2d, SpectralEmbedding, SpectralLinear
from saddlepoint.objectives import objective
from saddlepoint.penalties import orthogonal
from saddlepoint.pretrained.biggan import official_name, official_names
from saddlepoint.systems import build
from saddlepoint.systems.biggan import BigGAN, matrices
from tests.parity.official import Official


class Case(Official):
    set = "biggan"


def played(fn: Callable[[], Any]) -> Any:
    """fn(), and what it tracked committed, as the official code does in every forward pass."""
    with tracking.collecting() as ledger:
        result = fn()
    tracking.commit(ledger)
    return result


def state(module: nn.Module, own_norm: bool = False) -> dict[str, Tensor]:
    """Parameters and buffers by their official names."""
    own = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    return {theirs: own[ours] for ours, theirs in official_names(module, own_norm).items()}


def scalar(image: Tensor) -> Tensor:
    weights = torch.cos(0.7 * torch.arange(image.numel(), dtype=torch.float64))  # float32 would round the angles
    return (image * weights.to(image.dtype).view(image.shape)).sum()


def blocks(module: nn.Module) -> tuple[list[Tensor], list[Any]]:
    """Outputs of all blocks, filled by the next forward pass, and the hooks to remove."""
    seen: list[Tensor] = []
    flat = [layers[-1] for layers in module.get_submodule("blocks")]  # type: ignore[union-attr, index]
    return seen, [layer.register_forward_hook(lambda m, i, o: seen.append(o)) for layer in flat]


@pytest.mark.parametrize("name", ["generator", "generator_deep"])
def test_generator(parity: Path, name: str) -> None:
    case = Case(parity, name)
    game: Any = pretrained.load("biggan", case.part("weights/"), **case.config)
    told: Any = pretrained.load("biggan", case.part("weights/"))  # shapes tell the network
    assert all(torch.equal(v, told.state_dict()[k]) for k, v in game.generator.state_dict(prefix="generator.").items())
    G, own_norm = game.generator, case.config["G_kwargs"].get("mybn", False)
    y, z = case["in/y"], case["in/z"]
    G.eval()
    case.close("out/img_eval", G(z, y))
    if "out/img_eval_batch1" in case.tensors:
        case.close("out/img_eval_batch1", G(z[:1], y[:1]))
    case.close("out/shared_y", G.shared(y))
    if "out/img_eval_halfway_classes" in case.tensors:
        half = torch.nn.functional.one_hot(y[:2], 6).float().mean(0, keepdim=True)
        case.close("out/img_eval_halfway_classes", G(z[:1], half))
    G.train()
    seen, hooks = blocks(G)
    z = z.clone().requires_grad_()
    image = played(lambda: G(z, y))
    for hook in hooks:
        hook.remove()
    case.close("out/img_train", image)
    for i, block in enumerate(seen):
        expected = case[f"out/train.block{i}"]
        case.close(f"out/train.block{i}", block[: len(expected)])
    for key in case.part("out/after_train1/"):
        if not key.endswith("accumulation_counter"):
            case.close(f"out/after_train1/{key}", state(G, own_norm)[key])
    case.close("out/scalar_train", scalar(image))
    names = [k for k in case.part("grad/") if k != "z"]
    own = state(G, own_norm)
    found = torch.autograd.grad(scalar(image), [z, *(own[n] for n in names)])
    for key, gradient in zip(["z", *names], found, strict=True):
        case.close(f"grad/{key}", gradient)
    case.close("out/img_train_second", played(lambda: G(z.flip(0), y.flip(0))))
    for key in case.part("out/after_train2/"):
        case.close(f"out/after_train2/{key}", state(G, own_norm)[key])
    if "out/img_eval_after" in case.tensors:
        case.close("out/img_eval_after", G.eval()(z, y))


def test_standing_statistics(parity: Path) -> None:
    case = Case(parity, "generator_deep")
    game: Any = pretrained.load("biggan", case.part("weights/"), **case.config)
    G, draws = game.generator, [t for _, t in sorted(case.part("in/draw.standing.").items())]
    for z, y in ((case["in/z"], case["in/y"]), (case["in/z"].flip(0), case["in/y"].flip(0))):
        played(lambda z=z, y=y: G(z, y))  # the two training passes of the case
    vectors = {n: b.clone() for n, b in G.named_buffers() if "running" not in n}

    def passes() -> Iterator[None]:
        for z, y in zip(draws[::2], draws[1::2], strict=True):
            with tracking.collecting() as ledger:  # the official code moves its vectors in these passes as well
                G(z, y)
            tracking.commit([entry for entry in ledger if entry.rate == 1.0])
            for entry in ledger:
                if entry.rate != 1.0:
                    tracking.track(*entry)
            yield

    found = standing_statistics(G, passes())
    with standing(found):
        for key in case.part("out/after_standing/"):
            if not key.endswith(
                "accumulation_counter"
            ):  # there they are sums, divided by the counter where they are used
                factor = 3 if "stored" in key else 1
                case.close(f"out/after_standing/{key}", factor * state(G, True)[key])
        case.close("out/img_eval_standing", G.eval()(case["in/z"], case["in/y"]))
    assert any(not torch.equal(b, vectors[n]) for n, b in G.named_buffers() if n in vectors)


@pytest.mark.parametrize("name", ["discriminator", "discriminator_deep"])
def test_discriminator(parity: Path, name: str) -> None:
    case = Case(parity, name)
    game: Any = pretrained.load("biggan", case.part("weights/"), **case.config)
    told: Any = pretrained.load("biggan", case.part("weights/"))
    D, x, y = game.discriminator, case["in/img"], case["in/y"]
    assert all(torch.equal(v, told.discriminator.state_dict()[k]) for k, v in D.state_dict().items())
    D.eval()
    case.close("out/logits_eval", D(x, y).unsqueeze(1))
    case.close("out/logits_eval_batch1", D(x[:1], y[:1]).unsqueeze(1))
    D.train()
    seen, hooks = blocks(D)
    x = x.clone().requires_grad_()
    logits = played(lambda: D(x, y))
    for hook in hooks:
        hook.remove()
    case.close("out/logits_train", logits.unsqueeze(1))
    for i, block in enumerate(seen):
        if f"out/train.block{i}" in case.tensors:
            case.close(f"out/train.block{i}", block[: len(case[f"out/train.block{i}"])])
    for key in case.part("out/after_train1/"):
        case.close(f"out/after_train1/{key}", state(D)[key])
    fake, real = logits[:3], logits[3:]
    far = torch.full_like(fake, 1e4)
    hinge, dcgan = objective("hinge"), objective("nonsaturating")
    case.close("out/hinge_d_real", hinge.discriminator(real, -far).mean())
    case.close("out/hinge_d_fake", hinge.discriminator(far, fake).mean())
    case.close("out/hinge_g", hinge.generator(fake, None).mean())
    case.close("out/dcgan_d_real", dcgan.discriminator(real, -far).mean())
    case.close("out/dcgan_d_fake", dcgan.discriminator(far, fake).mean())
    case.close("out/dcgan_g", dcgan.generator(fake, None).mean())
    own = state(D)
    names = [k for k in case.part("grad/") if k != "img"]
    loss = hinge.discriminator(real, fake).mean()
    found = torch.autograd.grad(loss, [x, *(own[n] for n in names)])
    for key, gradient in zip(["img", *names], found, strict=True):
        case.close(f"grad/{key}", gradient)
    played(lambda: D(x.flip(0), y.flip(0)))
    for key in case.part("out/after_train2/"):
        case.close(f"out/after_train2/{key}", state(D)[key])
    case.close("out/logits_eval_after", D.eval()(x, y).unsqueeze(1))


# ---- layers
SPECTRAL: dict[str, Callable[[], nn.Module]] = {
    "snconv": lambda: SpectralConv2d(4, 6, 3, Spectral(values=2, steps=2, eps=1e-6), stride=2, padding=1),
    "snlinear": lambda: SpectralLinear(5, 3, Spectral(values=2)),
    "snembed": lambda: SpectralEmbedding(7, 4, Spectral(steps=3)),
}


@pytest.mark.parametrize("name", list(SPECTRAL))
def test_spectral_layers(parity: Path, name: str) -> None:
    case, layer = Case(parity, "ops"), SPECTRAL[name]()
    layer.load_state_dict(case.part(f"weights/{name}/"))
    x = case[{"snconv": "in/x", "snlinear": "in/v", "snembed": "in/idx"}[name]]
    case.close(f"out/{name}.eval", layer.eval()(x))
    layer.train()
    y = played(lambda: layer(x))
    case.close(f"out/{name}.train1", y)
    for key in case.part(f"out/{name}.after1."):
        case.close(f"out/{name}.after1.{key}", layer.get_buffer(key))
    (gradient,) = torch.autograd.grad(scalar(y), layer.get_parameter("weight"))
    case.close(f"grad/{name}.weight", gradient)
    case.close(f"out/{name}.train2", played(lambda: layer(x)))
    for key in case.part(f"out/{name}.after2."):
        case.close(f"out/{name}.after2.{key}", layer.get_buffer(key))


STYLES = {
    "bn": {"style": "batch"}, "mybn": {"style": "batch", "biased": True}, "instance": {"style": "instance"},
    "nonorm": {"style": "none"},
}  # fmt: skip


@pytest.mark.parametrize("name", list(STYLES))
def test_conditional_norms(parity: Path, name: str) -> None:
    case = Case(parity, "ops")
    layer = ConditionalNorm(4, size=5, bias=True, eps=1e-4, **STYLES[name])  # type: ignore[arg-type]
    own_norm = any(".bn.stored" in k or k.startswith("bn.stored") for k in case.part(f"weights/ccbn.{name}/"))
    given = case.part(f"weights/ccbn.{name}/")
    own = {**dict(layer.named_parameters()), **dict(layer.named_buffers())}
    with torch.no_grad():
        for ours, tensor in own.items():
            theirs = official_name(f"bn1.{ours}", own_norm).removeprefix("bn1.")
            if theirs in given:
                tensor.copy_(given[theirs])
    x = case["in/x"].clone().requires_grad_()
    y = played(lambda: layer(x, vector=case["in/cond"]))
    case.close(f"out/ccbn.{name}.train", y)
    if name != "nonorm":
        inner = "bn." if own_norm else ""
        case.close(f"out/ccbn.{name}.after.{inner}stored_mean", own["norm.running_mean"])
        case.close(f"out/ccbn.{name}.after.{inner}stored_var", own["norm.running_var"])
    weight = own["gain.linear.weight"]
    gradients = torch.autograd.grad(scalar(y), [x, weight])
    case.close(f"grad/ccbn.{name}.x", gradients[0])
    case.close(f"grad/ccbn.{name}.gain.weight", gradients[1])
    case.close(f"out/ccbn.{name}.eval", layer.eval()(x, vector=case["in/cond"]))


def test_batch_norm_and_attention(parity: Path) -> None:
    case = Case(parity, "ops")
    norm = BatchNorm(4, eps=1e-4)
    names = {"weight": "gain", "bias": "bias", "running_mean": "stored_mean", "running_var": "stored_var"}
    norm.load_state_dict({ours: case[f"weights/bn/{theirs}"] for ours, theirs in names.items()})
    case.close("out/bn.train", played(lambda: norm(case["in/x"])))
    case.close("out/bn.after.stored_mean", norm.running_mean)
    case.close("out/bn.after.stored_var", norm.running_var)
    case.close("out/bn.eval", norm.eval()(case["in/x"]))
    layer = SelfAttention(16)
    layer.load_state_dict({**layer.state_dict(), **case.part("weights/attention/")})
    x = case["in/xa"].clone().requires_grad_()
    y = layer(x)
    case.close("out/attention.y", y)
    case.close("grad/attention.x", torch.autograd.grad(scalar(y), x)[0])


def test_orthogonal_gradients(parity: Path) -> None:
    case = Case(parity, "ops")
    given = case.part("weights/toy/")
    for name, diagonal, left in (("ortho", False, "emb.weight"), ("default_ortho", True, "")):
        kept = {k: t.clone().requires_grad_() for k, t in given.items() if t.ndim > 1 and k != left}
        penalty = 0.5 * 0.3 * orthogonal(kept.values(), diagonal=diagonal)  # their strength is twice our beta
        for key, gradient in zip(kept, torch.autograd.grad(penalty, list(kept.values())), strict=True):
            case.close(f"grad/{name}.{key}", gradient)
        assert all(not case[f"grad/{name}.{k}"].any() for k in given if k not in kept)


def test_average_of_weights_from_a_start_on(parity: Path) -> None:
    case = Case(parity, "ops")
    decay, average = 0.9, case["weights/toy2/lin.weight"].clone()
    half_life = math.log(0.5) / math.log(decay) / 1000
    values = {"resolution": 8, "channels": 1, "width": 2, "width_max": 2, "latent": 2}
    recipe = recipes.recipe("biggan", **values, ema_start_kimg=0.003, ema_half_life_kimg=half_life)
    game = BigGAN(recipe)  # type: ignore[arg-type]
    source = average.clone()
    for clock, change, name in ((1, 0.25, "before_start"), (4, -0.5, "after_start")):
        source += change
        now = game.stage(clock).half_life_kimg
        share = 1.0 if now == 0 else 1 - 0.5 ** (1 / (1000 * half_life))
        average.lerp_(source, share)
        if f"out/ema.{name}" in case.tensors:
            case.close(f"out/ema.{name}", average)


# ---- a training step
def test_training_step(parity: Path) -> None:
    """In the official order: two discriminator steps of two micro-batches, each forward pass moving vectors and running
    statistics, then a generator step with the orthogonal penalty, then the average.
    """
    case = Case(parity, "train_step")
    options = {**case.config, "config": case.config["config"]}
    game: Any = pretrained.load(
        "biggan", {k.replace("/", ".", 1): v for k, v in case.part("weights/").items()}, **options
    )
    draws = [t for _, t in sorted(case.part("in/draw.train.").items())]
    G, D, loss, recipe = game.generator, game.discriminator, game.objective, game.recipe
    average = Average(game, 1000 * recipe.ema_half_life_kimg)
    optimizers = {n: build_optimizer(recipe.optimizers()[n], game.player(n).parameters) for n in recipe.optimizers()}
    parts = zip(case["in/x"].split(3), case["in/y"].split(3), draws[0:8:2], draws[1:8:2], strict=True)
    for step in (1, 2):
        total: list[Tensor] = []
        for _ in range(2):
            x, y, z, c = next(parts)
            with torch.no_grad():
                fake = played(lambda z=z, c=c: G(z[:3], c[:3]))  # of four, the generator's own batch, three are used
            logits = played(lambda x=x, y=y, c=c, fake=fake: D(torch.cat([fake, x]), torch.cat([c[:3], y])))
            value = loss.discriminator(logits[3:], logits[:3]).mean() / 2
            found = torch.autograd.grad(value, list(D.parameters()))
            total = [a + b for a, b in zip(total, found, strict=True)] if total else list(found)
        moved(case, D, optimizers["discriminator"], total, f"grad/D_step{step}.")
    logits = played(lambda: D(played(lambda: G(draws[8], draws[9])), draws[9]))
    gan = loss.generator(logits, None).mean()
    case.close("out/G_loss", gan)
    value = gan + recipe.orthogonal * orthogonal(matrices(G))
    last = "grad/G_step1." if case.part("grad/G_step1.") else "grad/G_step3."
    moved(case, G, optimizers["generator"], list(torch.autograd.grad(value, list(G.parameters()))), last)
    average.update(1, 1, math.log(0.5) / math.log(0.9) / 1000)
    for letter, module in (("G", G), ("D", D)):
        own = state(module)
        for key in case.part(f"out/after/{letter}/"):
            # Convolution biases before a batch norm have no gradient but rounding, which Adam makes a whole step of.
            vague = 1.05e-4 if letter == "G" and ".conv" in key and key.endswith("bias") else 1e-6
            case.close(f"out/after/{letter}/{key}", own[key], absolute=vague)
    averaged = dict(zip(dict(G.named_parameters()), average.weights, strict=True))
    for key in case.part("out/G_ema/"):
        if key in averaged:  # the official average is of buffers too
            case.close(f"out/G_ema/{key}", averaged[key])


def moved(
    case: Case, module: nn.Module, optimizer: torch.optim.Optimizer, gradients: list[Tensor], prefix: str
) -> None:
    """Compare gradients and take the step."""
    own = dict(zip([official_name(n) for n, _ in module.named_parameters()], gradients, strict=True))
    for key in case.part(prefix):
        zero = ".conv" in key and key.endswith("bias") and prefix.startswith("grad/G")
        case.close(f"{prefix}{key}", own[key], absolute=1e-6 if zero else 0.0)
    for parameter, gradient in zip(module.parameters(), gradients, strict=True):
        parameter.grad = gradient
    optimizer.step()


# ---- the generators published for TensorFlow
class TestPublishedDeep:
    def game(self, case: Case, **more: Any) -> Any:
        return pretrained.load("biggan", case.part("weights/"), **case.config, **more)

    def test_images(self, parity: Path) -> None:
        case = Case(parity, "hf_deep")
        game = self.game(case, swapped=True)
        z, y = case["in/z"], case["in/class_vector"]
        for truncation in case.config["truncations"]:
            case.close(f"out/img_trunc{truncation}", game.sample(3, z=z, label=y, truncation=truncation))
        assert torch.equal(
            game.sample(3, z=z, label=y.argmax(1), truncation=0.4), game.sample(3, z=z, label=y, truncation=0.4)
        )
        G = game.generator.eval()
        first = G.linear(G.parts(z, y)[0])  # rows by map here, by position there
        case.close("out/gen_z", first.view(3, -1, 4, 4).permute(0, 2, 3, 1).flatten(1))

    def test_gradient(self, parity: Path) -> None:
        case = Case(parity, "hf_deep")
        G = self.game(case, swapped=True).generator.eval()
        z = case["in/z"].clone().requires_grad_()
        with truncated(G, 0.37):
            (gradient,) = torch.autograd.grad(scalar(G(z, case["in/class_vector"])), z)
        case.close("grad/z", gradient)

    def test_interpolated_statistics(self, parity: Path) -> None:
        case = Case(parity, "hf_deep")
        for swapped in (True, False):
            G = self.game(case, swapped=swapped).generator.eval()
            _, vectors = G.parts(case["in/z"], case["in/class_vector"])
            with truncated(G, 0.37):
                norm = G.blocks[0][0].bn1
                y = norm(case["in/feat"], vector=vectors[0])
                if swapped:
                    case.close("out/bn0_trunc0.37", y)
                else:  # as it should be: 0.15 of the table at 0.2, 0.85 of the one at 0.4
                    tables = case["weights/generator.layers.0.bn_0.running_means"]
                    torch.testing.assert_close(
                        norm.norm.at(norm.norm.running_mean), 0.15 * tables[1] + 0.85 * tables[2]
                    )

    def test_shapes_tell_all_but_the_order_of_doublings(self, parity: Path) -> None:
        case = Case(parity, "hf_deep")
        with pytest.raises(UserError, match="layout"):
            pretrained.load("biggan", {k: v for k, v in case.part("weights/").items() if "layers.5" not in k})

    def test_latents_stay_within_two_truncations(self, parity: Path) -> None:
        game = self.game(Case(parity, "hf_deep"))
        for truncation in (1.0, 0.5):
            assert game.draw_latents(500, 0, truncation).abs().max() <= 2 * truncation
        with pytest.raises(UserError, match="0 to 1"):
            game.sample(1, truncation=1.5)


def test_the_game_is_built_by_its_recipe(parity: Path) -> None:
    """What was loaded can be built again from the recipe and takes the same state: runs of it can be saved."""
    for name in ("hf_deep", "generator_deep"):
        case = Case(parity, name)
        game = pretrained.load("biggan", case.part("weights/"), **case.config)
        again = build(recipes.from_json(json.loads(json.dumps(recipes.to_json(game.recipe)))))  # type: ignore[attr-defined]
        again.load_state_dict(game.state_dict())
        assert torch.equal(again.sample(2), game.sample(2))
