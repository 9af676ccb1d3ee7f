"""pix2pixHD: High-Resolution Image Synthesis and Semantic Manipulation with Conditional GANs (Wang et al. 2018,
arXiv:1711.11585).

A label map becomes a photo: a global generator works at half the size, a local enhancer around it at the full one;
several discriminators look at a pyramid of the photo, and what they see inside it is matched between the made and the
true one. Edges from instance ids part objects that touch; an encoder gives every object a few numbers, so that one
label map has many photos and every object its own look. Official code: NVIDIA/pix2pixHD (PyTorch), whose names are
kept. Where we differ:
- the means over instances are one scatter instead of loops over ids, images and channels;
- when the inner generator begins to learn, the discriminator's Adam starts afresh as well as the generator's;
- with enhancers the encoder looks at the full size (the official script stores features made at half of it);
- cross entropy is taken from logits.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from saddlepoint.errors import UserError
from saddlepoint.game import Move, Player, Round, Stage, Terms, keyed_generator
from saddlepoint.layers.label_maps import (
    PER_CLASS,
    clustered,
    coloured,
    edges,
    feature_table,
    instance_mean,
    maps_of,
    objects,
    one_hot,
)
from saddlepoint.layers.latent import dtype_of
from saddlepoint.layers.translation import (
    Dropout,
    Noise,
    criterion,
    dropping,
    from_pool,
    init_weights,
    norm_layer,
    padding_layers,
)
from saddlepoint.layers.vgg import VGG19, Lite0, read_vgg
from saddlepoint.recipes.pix2pixhd import Pix2PixHDRecipe
from saddlepoint.schedules import linear_decay
from saddlepoint.systems.translation import EXAMPLES, Span, Translator, cut, named_uniform, padded
from saddlepoint.tracking import track

WIDEST = 512  # feature maps of a discriminator


def halved(x: Tensor) -> Tensor:
    """3x3 means of stride 2, [N, C, H, W] -> [N, C, ceil(H/2), ceil(W/2)]; pixels outside do not count."""
    return F.avg_pool2d(x, 3, stride=2, padding=1, count_include_pad=False)


# ---- generators
class Block(nn.Module):
    """x + norm(conv(dropout(relu(norm(conv x))))), 3x3; here every convolution has a bias, also before batch norm."""

    def __init__(self, channels: int, norm: str, padding_type: str, use_dropout: bool, name: str) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for second in (False, True):
            pad, left = padding_layers(padding_type, 1)
            layers += [*pad, nn.Conv2d(channels, channels, 3, padding=left), norm_layer(norm, channels)]
            if not second:
                layers += [nn.ReLU(), *([Dropout(name)] if use_dropout else [])]
        self.conv_block = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv_block(x)


def _down(inputs: int, outputs: int, norm: str) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, 3, stride=2, padding=1), norm_layer(norm, outputs), nn.ReLU()]


def _up(inputs: int, outputs: int, norm: str) -> list[nn.Module]:
    made = nn.ConvTranspose2d(inputs, outputs, 3, stride=2, padding=1, output_padding=1)
    return [made, norm_layer(norm, outputs), nn.ReLU()]


def _in(inputs: int, width: int, norm: str) -> list[nn.Module]:
    return [nn.ReflectionPad2d(3), nn.Conv2d(inputs, width, 7), norm_layer(norm, width), nn.ReLU()]


def _out(width: int, outputs: int) -> list[nn.Module]:
    return [nn.ReflectionPad2d(3), nn.Conv2d(width, outputs, 7), nn.Tanh()]


def global_layers(
    inputs: int, ngf: int, downs: int, blocks: int, norm: str, padding_type: str, use_dropout: bool
) -> list[nn.Module]:
    """G1 up to its last feature maps: [N, inputs, H, W] -> [N, ngf, H, W]."""
    widths = [ngf * 2**i for i in range(downs + 1)]
    layers = _in(inputs, ngf, norm)
    for i in range(downs):
        layers += _down(widths[i], widths[i + 1], norm)
    layers += [Block(widths[-1], norm, padding_type, use_dropout, str(i)) for i in range(blocks)]
    for i in reversed(range(downs)):
        layers += _up(widths[i + 1], widths[i], norm)
    return layers


def global_reach(downs: int, blocks: int) -> int:
    """How far an output pixel of G1 sees, without its last convolution: at most."""
    return 3 + 2**downs - 1 + 2 * blocks * 2**downs + 2 ** (downs + 1)


class GlobalGenerator(nn.Module):
    """G1: c7s1, `downs` convolutions of stride 2, residual blocks, as many transposed ones, c7s1, tanh (section 3.2).

    x [N, in, H, W] -> [N, out, H, W] in [-1, 1]; sides become the next multiple of 2^downs.
    """

    def __init__(
        self, input_nc: int, output_nc: int, ngf: int = 64, downs: int = 4, blocks: int = 9, norm: str = "instance",
        padding_type: str = "reflect", use_dropout: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        inside = global_layers(input_nc, ngf, downs, blocks, norm, padding_type, use_dropout)
        self.model = nn.Sequential(*inside, *_out(ngf, output_nc))
        self.multiple = 2**downs
        self.reach = global_reach(downs, blocks) + 3

    def forward(self, x: Tensor, noise: Noise | None = None, fixed: bool = False) -> Tensor:
        with dropping(noise):
            return self.model(x)


class LocalEnhancer(nn.Module):
    """G2: enhancers around G1, each for twice the size; G1 works on the input halved `enhancers` times (section 3.2).

    model: G1 without its last convolution. model{n}_1: c7s1 and a convolution of stride 2, to which the maps from
    inside are added. model{n}_2: residual blocks and a transposed convolution; the outermost ends with c7s1 and tanh.
    x [N, in, H, W], sides multiples of `multiple` -> [N, out, H, W].
    """

    def __init__(
        self, input_nc: int, output_nc: int, ngf: int = 32, downs: int = 3, blocks: int = 9, enhancers: int = 1,
        local_blocks: int = 3, norm: str = "instance", padding_type: str = "reflect", use_dropout: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self.enhancers = enhancers
        inner = ngf * 2**enhancers
        self.model = nn.Sequential(*global_layers(input_nc, inner, downs, blocks, norm, padding_type, use_dropout))
        for n in range(1, enhancers + 1):
            width = ngf * 2 ** (enhancers - n)
            self.add_module(
                f"model{n}_1", nn.Sequential(*_in(input_nc, width, norm), *_down(width, 2 * width, norm))
            )  # fmt: skip
            local = [Block(2 * width, norm, padding_type, False, f"{n}.{i}") for i in range(local_blocks)]
            last = _out(width, output_nc) if n == enhancers else []
            self.add_module(f"model{n}_2", nn.Sequential(*local, *_up(2 * width, width, norm), *last))
        self.multiple = 2 ** (downs + enhancers)
        self.reach = 2**enhancers * global_reach(downs, blocks) + sum(
            2 ** (enhancers - n) * (4 * local_blocks + 8) for n in range(1, enhancers + 1)
        )

    def inner(self, x: Tensor) -> Tensor:
        """The maps that the outermost enhancer adds to its own: [N, in, H, W] -> [N, 2 ngf, H/2, W/2]."""
        pyramid = [x]
        for _ in range(self.enhancers):
            pyramid.append(halved(pyramid[-1]))
        y = self.model(pyramid[-1])
        for n in range(1, self.enhancers):
            first, second = self.get_submodule(f"model{n}_1"), self.get_submodule(f"model{n}_2")
            y = second(first(pyramid[self.enhancers - n]) + y)
        return y

    def forward(self, x: Tensor, noise: Noise | None = None, fixed: bool = False) -> Tensor:
        """fixed: what is inside the outermost enhancer is a constant map, though one with a derivative in x."""
        n = self.enhancers
        with dropping(noise):
            y = functional_call(_Inner(self), self._constants(), (x,)) if fixed else self.inner(x)
            return self.get_submodule(f"model{n}_2")(self.get_submodule(f"model{n}_1")(x) + y)

    def _constants(self) -> dict[str, Tensor]:
        own = f"model{self.enhancers}_"
        return {f"outer.{k}": p.detach() for k, p in self.named_parameters() if not k.startswith(own)}


class _Inner(nn.Module):
    """`LocalEnhancer.inner` as a module, which functional_call needs."""

    def __init__(self, outer: LocalEnhancer) -> None:
        super().__init__()
        self.outer = outer

    def forward(self, x: Tensor) -> Tensor:
        return self.outer.inner(x)


class Encoder(nn.Module):
    """E: photo [N, 3, H, W] -> [N, features, H, W] in [-1, 1], constant on every instance (section 3.4)."""

    def __init__(self, input_nc: int, output_nc: int, nef: int = 16, downs: int = 4, norm: str = "instance") -> None:
        super().__init__()
        inside = global_layers(input_nc, nef, downs, 0, norm, "reflect", False)
        self.model = nn.Sequential(*inside, *_out(nef, output_nc))
        self.multiple = 2**downs

    def forward(self, x: Tensor, instance: Tensor) -> Tensor:
        return instance_mean(cut(self.model(padded(x, self.multiple)), x), instance)


# ---- discriminators
class MultiscaleDiscriminator(nn.Module):
    """num_D patch discriminators, each on the picture halved once more (section 3.2).

    `features(x)`: for every scale, the full size first, all layers' maps, logits [N, 1, h, w] last. The full size has
    the weights with the highest number, as in the official code. 4x4 convolutions with padding 2.
    forward: what the official module returns, the probability last where `sigmoid`.
    """

    def __init__(
        self, input_nc: int, ndf: int = 64, n_layers: int = 3, norm: str = "instance", scales: int = 3,
        sigmoid: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self.scales, self.layers, self.sigmoid = scales, n_layers + 2, sigmoid
        for k in range(scales):
            width = input_nc
            for j in range(n_layers + 2):
                wide = 1 if j == n_layers + 1 else min(ndf * 2**j, max(ndf, WIDEST))
                layer: list[nn.Module] = [nn.Conv2d(width, wide, 4, stride=2 if j < n_layers else 1, padding=2)]
                if 0 < j <= n_layers:
                    layer.append(norm_layer(norm, wide))
                if j <= n_layers:
                    layer.append(nn.LeakyReLU(0.2))
                self.add_module(f"scale{k}_layer{j}", nn.Sequential(*layer))
                width = wide

    def features(self, x: Tensor) -> list[list[Tensor]]:
        found = []
        for level in range(self.scales):
            x = halved(x) if level else x
            maps, y = list[Tensor](), x
            for j in range(self.layers):
                y = self.get_submodule(f"scale{self.scales - 1 - level}_layer{j}")(y)
                maps.append(y)
            found.append(maps)
        return found

    def forward(self, x: Tensor) -> list[list[Tensor]]:
        found = self.features(x)
        return [[*maps[:-1], maps[-1].sigmoid()] for maps in found] if self.sigmoid else found


# ---- objectives
def over_scales(mode: str, found: list[list[Tensor]], real: bool) -> Tensor:
    """`criterion` on the logits, summed over the scales."""
    return torch.stack([criterion(mode, maps[-1], real) for maps in found]).sum()


def feature_matching(fake: list[list[Tensor]], real: list[list[Tensor]], n_layers: int) -> Tensor:
    """sum_k sum_i 1/num_D 4/(n_layers + 1) mean|D_k^i(fake) - D_k^i(real)| over all layers but the last (eq. 4).

    The official code detaches the real side. In the generator's move no gradient reaches the discriminator anyway.
    """
    scale = 4.0 / (n_layers + 1) / len(fake)
    terms = [
        (a.float() - b.float() if a.dtype.itemsize < 4 else a - b.to(a.dtype)).abs().mean()
        for made, true in zip(fake, real, strict=True)
        for a, b in zip(made[:-1], true[:-1], strict=True)
    ]
    return scale * torch.stack(terms).sum()


# ---- the game
def _initialised(module: nn.Module, recipe: Pix2PixHDRecipe) -> nn.Module:
    """First weights as published: biases of convolutions keep torch's."""
    biases = {
        k: p.detach().clone() for k, p in module.named_parameters() if k.endswith("bias") and p.device.type != "meta"
    }
    init_weights(module, recipe.init, recipe.init_gain)
    with torch.no_grad():
        for layer_name, layer in module.named_modules():
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d) and f"{layer_name}.bias" in biases:
                assert layer.bias is not None
                layer.bias.copy_(biases[f"{layer_name}.bias"])
    return module


class Pix2PixHD(Translator):
    """min_G (max_D sum_k L_GAN(G, D_k)) + lambda sum_k L_FM(G, D_k), with a perceptual term beside it (eq. 5)."""

    recipe: Pix2PixHDRecipe
    examples_label: Tensor
    examples_instance: Tensor
    centres: Tensor
    centres_known: Tensor
    pool: Tensor
    pool_count: Tensor

    def __init__(self, recipe: Pix2PixHDRecipe) -> None:
        super().__init__(recipe)
        check(recipe)
        self.classes, self.objects_needed = recipe.labels, recipe.instances
        condition = (recipe.labels or self.inputs) + recipe.instances
        takes, gives = condition + recipe.features, self.outputs
        made: nn.Module
        if recipe.network == "local":
            made = LocalEnhancer(
                takes, gives, recipe.width, recipe.downs, recipe.blocks, recipe.enhancers, recipe.local_blocks,
                recipe.norm, recipe.padding, recipe.dropout,
            )  # fmt: skip
        else:
            made = GlobalGenerator(
                takes, gives, recipe.width, recipe.downs, recipe.blocks, recipe.norm, recipe.padding, recipe.dropout
            )
        self.generator = _initialised(made, recipe)
        judge = MultiscaleDiscriminator(
            condition + gives, recipe.d_width, recipe.n_layers, recipe.norm, recipe.scales, recipe.gan_mode == "vanilla"
        )
        self.discriminator = _initialised(judge, recipe)
        self.encoder: nn.Module | None = None
        if recipe.features:
            encoder = Encoder(gives, recipe.features, recipe.e_width, recipe.e_downs, recipe.norm)
            self.encoder = _initialised(encoder, recipe)
        self.vgg: VGG19 | Lite0 | None = None
        if recipe.vgg and self.device.type != "meta":
            self.vgg = read_vgg(recipe.vgg)
        self._buffers_for(condition)
        self.averaged = ("generator",) if self.encoder is None else ("generator", "encoder")
        movers = [self.generator] if self.encoder is None else [self.generator, self.encoder]
        self.players = (
            Player("generator", movers, self.generator_loss, steps=recipe.g.steps),
            Player("discriminator", self.discriminator, self.discriminator_loss, steps=recipe.d.steps),
        )

    def _buffers_for(self, condition: int) -> None:
        recipe, side = self.recipe, self.recipe.shape
        if recipe.labels:
            self.register_buffer("examples_a", torch.zeros(EXAMPLES, 0, *side, dtype=torch.uint8))
        for name, there in (("label", recipe.labels), ("instance", recipe.instances)):
            if there:
                self.register_buffer(f"examples_{name}", torch.zeros(EXAMPLES, *side, dtype=torch.int32))
        if recipe.features:  # appearances of each class to choose from
            kinds = recipe.labels or PER_CLASS
            self.register_buffer("centres", torch.zeros(kinds, recipe.clusters, recipe.features))
            self.register_buffer("centres_known", torch.zeros(kinds, dtype=torch.int64))
        if recipe.pool:  # past fakes with what they were made from
            self.register_buffer("pool", torch.zeros(recipe.pool, condition + self.outputs, *side))
            self.register_buffer("pool_count", torch.zeros(()))

    def way(self, direction: str) -> nn.Module:
        return self.generator

    @property
    def takes(self) -> tuple[str, ...]:
        """A label map or a picture, and the ids of objects where the recipe has instances."""
        return ("label" if self.recipe.labels else "a", *(("instance",) if self.recipe.instances else ()))

    def colours(self, label: Tensor) -> Tensor:
        return coloured(label)

    @property
    def maps(self) -> bool:
        """Whether it takes more than a picture."""
        return bool(self.recipe.labels or self.recipe.instances or self.recipe.features)

    # ---- schedule and order of play
    def fixed(self, clock: int) -> bool:
        """Whether only the outermost enhancer (and the encoder) learn."""
        return self.recipe.network == "local" and clock < 1000 * self.recipe.fix_global_kimg

    def stage(self, clock: int) -> Stage:
        """lr falls by lr0 / decay epochs after each epoch beyond the first of the decay; fresh optimizers where the
        inner generator begins to learn.
        """
        recipe = self.recipe
        factor = 1.0
        if recipe.lr_policy == "linear" and recipe.decay_kimg:
            every = round(1000 * recipe.epoch_kimg)
            factor = linear_decay(clock // every * every if every else clock, recipe.hold_kimg, recipe.decay_kimg)
        settings = {name: {"lr": factor * o.lr} for name, o in recipe.optimizers().items()}
        later = recipe.network == "local" and recipe.fix_global_kimg > 0 and not self.fixed(clock)
        return Stage(settings=settings, era=int(later))

    def moves(self, step: int) -> list[Move]:
        """The generator on new examples, then the discriminators on the fake that was made before that step."""
        g, d = self.recipe.g.steps, self.recipe.d.steps
        return [Move("generator", "data")] * g + [Move("discriminator", "same")] * d

    # ---- losses
    def condition(self, x: Tensor, instance: Tensor | None) -> Tensor:
        """What both players see of the input: [N, labels or C, H, W], one-hot or the picture, and the edges."""
        dtype = dtype_of(self)
        seen = one_hot(x, self.recipe.labels, dtype) if self.recipe.labels else x.to(dtype)
        if not self.recipe.instances:
            return seen
        if instance is None:
            raise UserError("this pix2pixhd has instances=True: give the instance ids [N, H, W] as `instance`.")
        return torch.cat([seen, edges(instance, dtype)], 1)

    def seen(self, round: Round) -> Tensor:
        """The condition of a round, [N, C, H, W]."""
        return self.condition(
            round["label" if self.recipe.labels else "a"], round["instance"] if self.recipe.instances else None
        )

    def true(self, round: Round) -> Tensor:
        """The photos, [N, C, H, W]."""
        return round["image" if self.recipe.labels else "b"]

    def objects_in(self, x: Tensor, instance: Tensor | None) -> Tensor:
        """The map whose regions share features: instances, or classes."""
        regions = x if self.recipe.label_features else instance
        if regions is None:
            raise UserError("features need the instance ids [N, H, W] as `instance`.")
        return maps_of(regions)

    def fake(self, round: Round) -> Tensor:
        """G(s, E(x)), [N, C, H, W]."""
        given = self.seen(round)
        if self.encoder is not None:
            regions = round["label" if self.recipe.label_features else "instance"]
            given = torch.cat([given, self.encoder(self.true(round), regions).to(given.dtype)], 1)
        noise = named_uniform(round, "G") if self.recipe.dropout else None
        return self.generator(given, noise, self.fixed(round.clock))

    def judged(self, seen: Tensor, image: Tensor) -> list[list[Tensor]]:
        """All maps of all scales for a condition and a photo."""
        found: list[list[Tensor]] = self.discriminator.features(torch.cat([seen, image.to(seen.dtype)], 1))  # type: ignore[operator]
        return found

    def generator_loss(self, round: Round) -> Terms:
        recipe, seen, true = self.recipe, self.seen(round), self.true(round)
        fake = round.keep("fake", lambda: self.fake(round))
        on_fake = self.judged(seen, fake)
        terms = {"gan": over_scales(recipe.gan_mode, on_fake, True)}
        if recipe.feature_matching:
            matched = feature_matching(on_fake, self.judged(seen, true), recipe.n_layers)
            terms["feature_matching"] = recipe.feature_matching * matched
        if self.vgg is not None and recipe.perceptual:
            terms["perceptual"] = recipe.perceptual * self.vgg.distance(fake.to(true.dtype), true)
        return terms

    def discriminator_loss(self, round: Round) -> Terms:
        mode, seen = self.recipe.gan_mode, self.seen(round)
        fake = round.keep("fake", lambda: self.fake(round))
        shown = self.pooled(round, torch.cat([seen, fake.to(seen.dtype)], 1))
        on_fake = over_scales(mode, self.discriminator.features(shown), False)  # type: ignore[operator]
        on_real = over_scales(mode, self.judged(seen, self.true(round)), True)
        round.note("d_real", on_real)
        round.note("d_fake", on_fake)
        return {"gan": 0.5 * (on_fake + on_real)}

    def pooled(self, round: Round, fake: Tensor) -> Tensor:
        """The fakes, with their conditions, that the discriminators are shown."""
        if not self.recipe.pool:
            return fake
        numbers = round.common("pool", round.total, 2)
        shown, after, count = from_pool(self.pool, self.pool_count, fake, numbers, round.first)
        track(self.pool, after, 1.0)
        track(self.pool_count, count, 1.0)
        return shown

    # ---- features of objects
    def encode(self, image: Tensor, instance: Tensor | None = None, label: Tensor | None = None) -> Tensor:
        """E's features of photos [N, C, H, W] in [-1, 1]: [N, F, H, W], constant on every instance (or class)."""
        if self.encoder is None:
            raise UserError("this pix2pixhd has no encoder; it was made with features=0.")
        regions = label if self.recipe.label_features else instance
        if regions is None:
            raise UserError("features need the instance ids [N, H, W] as `instance`.")
        with self.evaluating():
            made: Tensor = self.encoder(image.to(self.device, dtype_of(self)), maps_of(regions).to(self.device))
        return made

    def learn_centres(self, batches: Iterable[Mapping[str, Tensor]]) -> dict[int, Tensor]:
        """K-means over the features of the objects in these examples; kept in the game and returned by class.

        batches: with "image" (or "b"), "instance" and, where the recipe has labels, "label".
        """
        table: dict[int, list[Tensor]] = {}
        for batch in batches:
            image = batch["image" if "image" in batch else "b"]
            label, instance = batch.get("label"), batch.get("instance")
            regions = label if self.recipe.label_features else instance
            if regions is None:
                raise UserError("features need the instance ids [N, H, W] as `instance`.")
            features = self.encode(image, instance, label).cpu()
            for kind, rows in feature_table(features, regions, label if self.recipe.labels else None).items():
                table.setdefault(kind, []).append(rows)
        centres = clustered({kind: torch.cat(rows) for kind, rows in table.items()}, self.recipe.clusters)
        self.set_centres(centres)
        return centres

    def set_centres(self, centres: Mapping[int, Any]) -> None:
        """Keep the appearances of each class, {class: [K, F]} (what the official features_clustered_010.npy holds)."""
        if self.encoder is None:
            raise UserError("this pix2pixhd has no features to keep appearances of; it was made with features=0.")
        rows, most, size = self.centres.shape
        checked = {int(kind): torch.as_tensor(found, dtype=self.centres.dtype) for kind, found in centres.items()}
        for kind, found in checked.items():
            if not 0 <= kind < rows or found.ndim != 2 or len(found) > most or found.shape[1] != size:
                raise UserError(
                    f"centres of class {kind} have shape {list(found.shape)}; expected at most [{most}, {size}] for "
                    f"classes 0 to {rows - 1}."
                )
        with torch.no_grad():
            self.centres_known.zero_()
            for kind, found in checked.items():
                self.centres[kind, : len(found)] = found.to(self.centres.device)
                self.centres_known[kind] = len(found)

    def draw_features(
        self, instance: Tensor, label: Tensor | None = None, *, seed: int = 0, choose: Mapping[int, int] | None = None
    ) -> Tensor:
        """[N, F, H, W]: every object gets one of its class's appearances at random, or the chosen one.

        choose: {instance id: number of the appearance}. Objects of a class without appearances get zeros.
        """
        known = self.centres_known.tolist() if self.recipe.features else []
        if not any(known):
            raise UserError("no appearances are known yet: call learn_centres first, or give image= or features=.")
        regions = maps_of(instance).cpu()
        kinds = None if label is None or not self.recipe.labels else maps_of(label).cpu()
        made = torch.zeros(len(regions), self.recipe.features, regions[0].numel(), dtype=self.centres.dtype)
        wanted = dict(choose or {})
        for i, region in enumerate(regions):
            for number, kind, pixels in objects(region, None if kinds is None else kinds[i]):
                count = known[kind] if 0 <= kind < len(known) else 0
                pick = wanted.get(number, -1)
                if number in wanted and not 0 <= pick < count:
                    raise UserError(f"object {number} has {count} appearances (0 to {count - 1}), no number {pick}.")
                if count:
                    generator = keyed_generator(torch.device("cpu"), "appearance", seed, i, number)
                    drawn = int(torch.randint(count, (), generator=generator))
                    made[i, :, pixels] = self.centres[kind, pick if number in wanted else drawn].cpu()[:, None]
        return made.unflatten(2, regions.shape[1:]).to(self.device)

    # ---- use
    def translate(
        self,
        x: Tensor,
        *,
        direction: str = "a-to-b",
        seed: int = 0,
        batch: int = 16,
        instance: Tensor | None = None,
        image: Tensor | None = None,
        features: Tensor | None = None,
        choose: Mapping[int, int] | None = None,
    ) -> Tensor:
        """Photos [N, C, H, W] in [-1, 1] from label maps [N, H, W] (or pictures) of any size.

        instance: ids [N, H, W]. Of an object's look decide, in this order: features [N, F, H, W]; image: photos whose
        objects' looks are taken over; choose: {instance id: appearance}; else an appearance at random by the seed.
        UserError for unknown ids and for maps that are needed and not given.
        """
        if not self.maps:
            return super().translate(x, direction=direction, seed=seed, batch=batch)
        features = self._looks(x, instance, image, features, choose, seed)
        made = []
        with self.evaluating(), self._test_norm():
            for first in range(0, len(x), batch):
                place = slice(first, first + batch)
                given = self._given(
                    x[place], None if instance is None else edges(instance[place]),
                    None if features is None else features[place],
                )  # fmt: skip
                noise = self._noise(seed, first, len(given))
                made.append(cut(self.generator(padded(given, self.multiple), noise), given))
        return torch.cat(made) if made else torch.zeros(0, self.outputs, *x.shape[-2:])

    def translate_tiled(
        self,
        x: Tensor,
        *,
        tile: int,
        overlap: int = -1,
        passes: int = -1,
        direction: str = "a-to-b",
        seed: int = 0,
        instance: Tensor | None = None,
        image: Tensor | None = None,
        features: Tensor | None = None,
        choose: Mapping[int, int] | None = None,
    ) -> Tensor:
        """One large label map [H, W] (or picture [C, H, W]) tile by tile, see `Translator.translate_tiled`.

        The rest as in `translate`, without the first axis. Looks of objects and the edges between them are those of the
        whole, so that an object in several tiles has one look and no edge where a tile ends.
        """
        if not self.maps:
            return super().translate_tiled(
                x, tile=tile, overlap=overlap, passes=passes, direction=direction, seed=seed
            )  # fmt: skip
        x = x[None]
        instance, image, features = (None if t is None else t[None] for t in (instance, image, features))
        looks = self._looks(x, instance, image, features, choose, seed)
        lines = None if instance is None else edges(instance)
        noise = self._noise(seed, 0, 1)

        def make(row: Span, column: Span) -> Tensor:
            rows, columns = slice(row.start, row.stop), slice(column.start, column.stop)
            parts = (None if t is None else t[..., rows, columns] for t in (x, lines, looks))
            y: Tensor = self.generator(padded(self._given(*parts), self.multiple), noise)  # type: ignore[arg-type]
            return y

        return self._in_tiles(
            make, self.generator, x.shape[-2:], self.outputs, tile=tile, overlap=overlap, passes=passes
        )  # fmt: skip

    @property
    def multiple(self) -> int:
        """What the generator's sides are multiples of."""
        return int(getattr(self.generator, "multiple", 1))

    def _looks(
        self, x: Tensor, instance: Tensor | None, image: Tensor | None, features: Tensor | None,
        choose: Mapping[int, int] | None, seed: int,
    ) -> Tensor | None:  # fmt: skip
        """The objects' features [N, F, H, W] by what is given of them; None without. Refuses maps that do not fit."""
        if self.recipe.labels and (x.ndim == 4 and x.shape[1] != 1):
            raise UserError(f"this pix2pixhd takes label maps [N, H, W] of class ids, not pictures {list(x.shape)}.")
        if instance is not None and maps_of(instance).shape[1:] != x.shape[-2:]:
            raise UserError(
                f"instance ids of {list(instance.shape[-2:])} for an input of {list(x.shape[-2:])}; expected the same."
            )
        if not self.recipe.features or features is not None:
            return features
        regions = self.objects_in(x, instance)
        if image is not None:
            return self.encode(image, regions, regions)
        return self.draw_features(regions, x if self.recipe.labels else None, seed=seed, choose=choose)

    def _given(self, x: Tensor, lines: Tensor | None, features: Tensor | None) -> Tensor:
        """What the generator is given, [N, labels or C + 1 + F, H, W]. lines: edges between objects."""
        dtype = dtype_of(self)
        parts = [
            one_hot(x.to(self.device), self.recipe.labels, dtype) if self.recipe.labels else x.to(self.device, dtype)
        ]
        if self.recipe.instances:
            if lines is None:
                raise UserError("this pix2pixhd has instances=True: give the instance ids [N, H, W] as `instance`.")
            parts.append(lines.to(parts[0]))
        if features is not None and self.recipe.features:
            parts.append(features.to(parts[0]))
        return torch.cat(parts, 1)

    # ---- examples to show
    def meet(self, source: Any) -> None:
        if not self.maps:
            super().meet(source)
            return
        held_out = getattr(source, "held_out", lambda: None)() or source
        count = min(EXAMPLES, len(held_out) if hasattr(held_out, "__len__") else EXAMPLES)
        batch: Mapping[str, Tensor] = held_out(0, count, 0, count)
        pictures = {"a": self.examples_a, "b": self.examples_b, "image": self.examples_b}
        with torch.no_grad():
            for name in self.recipe.domains:
                if name in ("label", "instance"):
                    own = self.get_buffer(f"examples_{name}")
                    own[:count] = maps_of(batch[name]).to(own)
                else:
                    own = pictures[name]
                    own[:count] = (batch[name] * 127.5 + 127.5).round().clamp(0, 255).to(own)
            self.examples_known.copy_(torch.tensor([count, 1]))

    def example(self, index: Tensor) -> dict[str, Any]:
        """The arguments of `translate` for kept examples: x, and what the recipe has of instance and image."""
        made: dict[str, Any] = {}
        if self.recipe.labels:
            made["x"] = self.examples_label[index].long()
        else:
            made["x"] = self.examples_a[index].to(dtype_of(self)) / 127.5 - 1
        if self.recipe.instances:
            made["instance"] = self.examples_instance[index].long()
        if self.recipe.features:
            made["image"] = self.examples_b[index].to(dtype_of(self)) / 127.5 - 1
        return made

    def sample(
        self, n: int, seed: int = 0, *, image: Tensor | None = None, direction: str = "a-to-b", batch: int = 16,
        **given: Any,
    ) -> Tensor:  # fmt: skip
        """n photos: of kept examples in an order that the seed decides (with random looks once appearances are known,
        before that with the true photos'), or of `image`, pictures, where it takes only those.
        """
        if not self.maps:
            return super().sample(n, seed, image=image, direction=direction, batch=batch)
        count = int(self.examples_known[0])
        if not count:
            return self.translate(**self._invented(n, seed), seed=seed, batch=batch)
        order = torch.randperm(count, generator=keyed_generator(torch.device("cpu"), "examples", seed))
        arguments = self.example(order.repeat(-(-n // count))[:n].to(self.device))
        if self.recipe.features and int(self.centres_known.sum()):
            arguments.pop("image", None)
        return self.translate(**{**arguments, **given}, seed=seed, batch=batch)

    def _invented(self, n: int, seed: int) -> dict[str, Any]:
        """Sixteen rectangles of random classes, for a game that has met no data: arguments of `translate`."""
        kinds = max(1, self.recipe.labels)
        cells = [
            torch.randint(kinds, (4, 4), generator=keyed_generator(torch.device("cpu"), "inputs", seed, i))
            for i in range(n)
        ]
        number = torch.arange(16).view(4, 4)
        height, width = self.recipe.shape
        rows, columns = torch.arange(height) * 4 // height, torch.arange(width) * 4 // width
        label = torch.stack(cells)[:, rows][:, :, columns].to(self.device)  # [n, H, W]
        made: dict[str, Any] = {"x": label if self.recipe.labels else self.inputs_for(n, seed, "a-to-b")}
        if self.recipe.instances:
            made["instance"] = PER_CLASS * label + number[rows][:, columns].to(self.device)
        if self.recipe.features:
            made["features"] = torch.zeros(n, self.recipe.features, height, width, device=self.device)
        return made

    def show(self, rows: int = 8) -> tuple[Tensor, int]:
        """(pictures, columns): input | output | truth, two examples a row; classes in colours of their own."""
        if not self.maps:
            return super().show(rows)
        count = min(int(self.examples_known[0]), 2 * rows)
        arguments = self.example(torch.arange(count, device=self.device)) if count else self._invented(4, 0)
        made = self.translate(**arguments).cpu()
        x = arguments["x"].cpu()
        columns = [coloured(x) if self.recipe.labels else x, made]
        if count:
            columns.append(self.examples_b[:count].cpu().float() / 127.5 - 1)
        most = max(column.shape[1] for column in columns)
        cells = []
        for i in range(len(made)):
            for column in columns:
                cells.append(column[i].expand(most, -1, -1) if len(column[i]) == 1 else column[i])
        return torch.stack([cell.float() for cell in cells]), 2 * len(columns)


def check(recipe: Pix2PixHDRecipe) -> None:
    """UserError for settings that do not go together."""
    if recipe.gradient_penalty or recipe.d_network != "patch":
        raise UserError("pix2pixhd has patch discriminators without a gradient penalty; nearest: pix2pix.")
    if recipe.features and not (recipe.instances or (recipe.label_features and recipe.labels)):
        raise UserError(
            f"features={recipe.features} need objects to average over; nearest: instances=True, or labels and "
            "label_features=True."
        )
    if recipe.direction != "a-to-b" and recipe.labels:
        raise UserError("direction=b-to-a exchanges pictures, and label maps are none; nearest: a-to-b, or labels=0.")
    for name, least in (("scales", 1), ("enhancers", 1), ("aspect", 1), ("n_layers", 1), ("downs", 0), ("e_downs", 0)):
        if getattr(recipe, name) < least:
            raise UserError(f"{name}={getattr(recipe, name)}; expected at least {least}.")
    smallest = min(recipe.shape)
    made = 2**recipe.downs * (2**recipe.enhancers if recipe.network == "local" else 1)
    if smallest < 2 * made:
        raise UserError(
            f"pictures of {recipe.shape[0]}x{recipe.shape[1]} are too small to be halved {made.bit_length() - 1} times "
            f"and reflected; nearest: resolution={2 * made * recipe.aspect}, or fewer downs."
        )
