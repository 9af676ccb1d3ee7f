"""CoGAN: Coupled Generative Adversarial Networks (Liu and Tuzel 2016, arXiv:1606.07536).

Two GANs, one for each domain, share the generators' first layers, where meaning is made, and the discriminators' last
ones, where it is read. One z gives a pair of images of the same thing, though training sees no pair. Official code:
mingyuliutw/CoGAN (Caffe, later PyTorch). Where we differ:
- two logits and a softmax there are kept, but the game sees their difference: the same cross entropy;
- resolutions other than 28: the last kernel fills what the doublings leave, small images are padded;
- the released networks for faces are of a single domain: how many layers are shared there is our choice;
- dropout draws its masks from the round.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from saddlepoint.errors import UserError, unknown
from saddlepoint.game import Move, Player, Round, Terms
from saddlepoint.layers.convolution import halvings
from saddlepoint.layers.dense import dropout
from saddlepoint.layers.latent import LatentGame, Prior, in_parts, line
from saddlepoint.layers.normalisation import BatchNorm
from saddlepoint.objectives import objective
from saddlepoint.penalties import judge
from saddlepoint.recipes.cogan import CoGANRecipe

Numbers = Callable[[str, int], Tensor]  # (name, size) -> uniform numbers [N, size] for dropout
DOMAINS = ("a", "b")
LARGEST_KERNEL = 10


class Up(nn.Module):
    """Transposed convolution, batch norm, PReLU with one slope. [N, C, H, W] -> [N, C', H', W']."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, padding: int, *, affine: bool) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose2d(inputs, outputs, kernel, stride, padding)
        self.norm = BatchNorm(outputs, affine=affine)
        self.activation = nn.PReLU()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.activation(self.norm(self.conv(x)))
        return y


# ---- 28x28
def doublings(resolution: int) -> tuple[int, int]:
    """(number of layers n -> 2n - 1 from 4x4 on, side of the last kernel): 28 -> (3, 6), through 4, 7, 13, 25."""
    count = 0
    while 3 * 2 ** (count + 1) + 1 <= resolution:
        count += 1
    return count, resolution - (3 * 2**count + 1) + 3


def digits_layers(recipe: CoGANRecipe) -> list[nn.Module]:
    """The layers of one generator for the digits, z as [N, latent, 1, 1] -> image in (0, 1)."""
    count, kernel = doublings(recipe.resolution)
    if recipe.resolution < 8 or kernel > LARGEST_KERNEL:
        fine = [r for r in range(8, 129) if doublings(r)[1] <= LARGEST_KERNEL]
        near = min(fine, key=lambda r: abs(r - recipe.resolution))
        raise UserError(
            f"cogan with network=digits has no layers for a resolution of {recipe.resolution}; nearest: {near}. "
            "Powers of two from 8 on: network=faces."
        )
    widths = [max(1, recipe.width // 2**i) for i in range(count + 1)]
    layers: list[nn.Module] = [Up(recipe.latent, widths[0], 4, 1, 0, affine=False)]
    layers += [Up(a, b, 3, 2, 1, affine=False) for a, b in pairwise(widths)]
    last = nn.ConvTranspose2d(widths[-1], recipe.channels, kernel, 1, 1)
    return [*layers, nn.Sequential(last, nn.Sigmoid())]


def digits_judges(recipe: CoGANRecipe) -> list[nn.Module]:
    """The layers of one discriminator for the digits, image -> code [N, units, 1, 1]; pooling is all between them."""
    first, second, units = recipe.critic_widths
    padding = 0 if recipe.resolution >= 16 else 2
    side = recipe.resolution
    for _ in range(2):
        side = (side + 2 * padding - 4) // 2
    return [
        nn.Sequential(nn.Conv2d(recipe.channels, first, 5, padding=padding), nn.MaxPool2d(2)),
        nn.Sequential(nn.Conv2d(first, second, 5, padding=padding), nn.MaxPool2d(2)),
        nn.Sequential(nn.Conv2d(second, units, side), nn.PReLU()),
    ]


# ---- 128x128
def faces_layers(recipe: CoGANRecipe) -> list[nn.Module]:
    """The layers of one generator for faces, z as [N, latent, 1, 1] -> image in (-1, 1)."""
    widths = [max(1, recipe.width // 2**i) for i in range(halvings(recipe.resolution, "cogan") + 1)]
    layers: list[nn.Module] = [Up(recipe.latent, widths[0], 4, 1, 0, affine=True)]
    layers += [Up(a, b, 4, 2, 1, affine=True) for a, b in pairwise(widths)]
    return [*layers, nn.Sequential(nn.ConvTranspose2d(widths[-1], recipe.channels, 3, 1, 1), nn.Tanh())]


class Down(nn.Module):
    """Strided convolution (or dense layer), batch norm, PReLU, dropout."""

    def __init__(self, layer: nn.Module, outputs: int, drop: float, name: str) -> None:
        super().__init__()
        self.layer, self.norm, self.activation = layer, BatchNorm(outputs), nn.PReLU()
        self.drop, self.name = drop, name

    def forward(self, x: Tensor, numbers: Numbers | None = None) -> Tensor:
        y: Tensor = self.activation(self.norm(self.layer(x)))
        if numbers is None or not self.drop:
            return y
        return dropout(y, numbers(self.name, y[0].numel()).view_as(y), 1 - self.drop)


def faces_judges(recipe: CoGANRecipe) -> list[nn.Module]:
    """The layers of one discriminator for faces: six halvings at 128x128, the first three 5x5, and a dense layer."""
    count = halvings(recipe.resolution, "cogan") + 1
    widths = [recipe.critic_width * 2**i for i in range(count)]
    drops = ([0.0, 0.0, 0.1, 0.3, 0.3, 0.5] + [0.5] * count)[:count]
    layers: list[nn.Module] = []
    for i, (a, b) in enumerate(pairwise([recipe.channels, *widths])):
        kernel = 5 if i < 3 else 3
        layers.append(Down(nn.Conv2d(a, b, kernel, stride=2, padding=kernel // 2), b, drops[i], f"drop{i}"))
    units = 64 * recipe.critic_width
    dense = nn.Conv2d(widths[-1], units, 2)  # from 2x2: the dense layer, whose code has units of 1x1
    return [*layers, Down(dense, units, 0.5, f"drop{count}")]


# ---- the couples
class Couple(nn.Module):
    """Two stacks of layers with one part in common, `first` the own or the shared one, each applied to its own input.

    The shared layers are one module: they are tied because there is only one of them.
    """

    def __init__(self, make: Callable[[], list[nn.Module]], own: int, *, shared_first: bool, what: str) -> None:
        super().__init__()
        a, b = make(), make()
        if not 0 <= own <= len(a):
            near = min(max(own, 0), len(a))
            raise UserError(f"{what} is {own}; the networks have {len(a)} layers to share; nearest: {near}.")
        cut = len(a) - own if shared_first else own
        self.shared_first = shared_first
        self.shared = nn.ModuleList(a[:cut] if shared_first else a[cut:])
        self.own = nn.ModuleList(nn.ModuleList(each[cut:] if shared_first else each[:cut]) for each in (a, b))


def through(layers: nn.Module, x: Tensor, numbers: Numbers | None = None) -> Tensor:
    """One layer after the other; those that drop out take their numbers along."""
    for layer in layers.children():
        x = layer(x, numbers) if isinstance(layer, Down) else layer(x)
    return x


class Generators(Couple):
    """z [N, latent] -> a pair of images [N, C, R, R]: what is shared is computed once, with one set of statistics."""

    def __init__(self, recipe: CoGANRecipe) -> None:
        make = digits_layers if recipe.network == "digits" else faces_layers
        super().__init__(lambda: make(recipe), recipe.own_g, shared_first=True, what="own_g")

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        h = through(self.shared, z[:, :, None, None])  # [N, C, H, W]
        return through(self.own[0], h), through(self.own[1], h)


class Discriminators(Couple):
    """A pair of images -> logits [2N], first domain a's; both go through the shared layers as one batch."""

    def __init__(self, recipe: CoGANRecipe) -> None:
        make = digits_judges if recipe.network == "digits" else faces_judges
        super().__init__(lambda: make(recipe), recipe.own_d, shared_first=False, what="own_d")
        units = recipe.critic_widths[2] if recipe.network == "digits" else 64 * recipe.critic_width
        self.output = nn.Conv2d(units, 2, 1)
        self.classifier = nn.Conv2d(units, recipe.classes, 1) if recipe.class_weight else None

    def code(self, a: Tensor, b: Tensor, numbers: Numbers | None = None) -> Tensor:
        """What the shared layers make of both domains' images, [2N, units, 1, 1]."""
        if numbers is None:
            return through(self.shared, torch.cat([through(self.own[0], a), through(self.own[1], b)]))
        of_a, of_b = (lambda name, size, d=d: numbers(name + d, size) for d in DOMAINS)
        h = torch.cat([through(self.own[0], a, of_a), through(self.own[1], b, of_b)])
        return through(self.shared, h, lambda name, size: torch.cat([of_a(name, size), of_b(name, size)]))

    def logits(self, code: Tensor) -> Tensor:
        """log-odds of "real" [2N]: the difference of the softmax's two logits."""
        both: Tensor = self.output(code).flatten(1)  # [2N, 2]
        return both[:, 1] - both[:, 0]

    def forward(self, a: Tensor, b: Tensor, numbers: Numbers | None = None) -> Tensor:
        return self.logits(self.code(a, b, numbers))

    def classes(self, x: Tensor, domain: str = "a") -> Tensor:
        """Class logits [N, K] of one domain's images, through that domain's first layers."""
        if self.classifier is None:
            raise UserError("this cogan has no classifier; train one with class_weight=10 on labelled images.")
        h = through(self.shared, through(self.own[place(domain)], x))
        found: Tensor = self.classifier(h).flatten(1)
        return found


def place(domain: str) -> int:
    """0 for a, 1 for b."""
    if domain not in DOMAINS:
        raise unknown("domain", domain, DOMAINS)
    return DOMAINS.index(domain)


@torch.no_grad()
def initialise(module: nn.Module, network: str) -> None:
    """digits: Glorot's uniform weights with gain sqrt 2, biases 0.1. faces: N(0, 0.02), biases 0."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            if network == "digits":
                nn.init.xavier_uniform_(layer.weight, gain=2**0.5)
            else:
                nn.init.normal_(layer.weight, 0, 0.02)
            if layer.bias is not None:
                nn.init.constant_(layer.bias, 0.1 if network == "digits" else 0.0)


class CoGAN(LatentGame):
    """The discriminators minimise the sum of their cross entropies, the generators -log s(f(g(z))), one z for both."""

    averaged = ("generator",)
    couples = frozenset({"batch-norm"})

    def __init__(self, recipe: CoGANRecipe) -> None:
        super().__init__()
        if recipe.class_weight and not recipe.classes:
            raise UserError("cogan with a class_weight needs labelled images in domain a, and these have no labels.")
        self.recipe = recipe
        self.objective = objective(recipe.objective)
        self.prior = Prior(recipe.latent, recipe.prior)
        self.generator, self.discriminator = Generators(recipe), Discriminators(recipe)
        initialise(self, recipe.network)
        self.players = (
            Player("discriminator", self.discriminator, self.discriminator_loss, steps=recipe.d.steps),
            Player("generator", self.generator, self.generator_loss, steps=recipe.g.steps),
        )

    def moves(self, step: int) -> list[Move]:
        """New images for every move of the discriminators, new noise for every move of the generators."""
        return [Move("discriminator")] * self.recipe.d.steps + [Move("generator", "noise")] * self.recipe.g.steps

    # ---- what the players see
    def seen(self, x: Tensor) -> Tensor:
        """Images in [-1, 1] in the networks' own range: [0, 1] for the digits."""
        return (x + 1) / 2 if self.recipe.network == "digits" else x

    def real(self, round: Round) -> tuple[Tensor, Tensor]:
        """One batch of each domain, [N, C, R, R]; they are not pairs."""
        return self.seen(round["image"]), self.seen(round["second"])

    def numbers(self, round: Round, use: str) -> Numbers | None:
        """Where the discriminators' dropout takes its numbers from (faces only)."""
        return (lambda name, size: round.uniform(use + name, size)) if self.recipe.network == "faces" else None

    # ---- the game
    def discriminator_loss(self, round: Round) -> Terms:
        D, real, fake = self.discriminator, torch.stack(self.real(round), 1), self.pairs(round)

        def judged(x: Tensor, use: str) -> Tensor:  # [N, 2, C, R, R] -> [N, 2]: penalties see a pair as one sample
            return D(x[:, 0], x[:, 1], self.numbers(round, use)).view(2, -1).T

        found = judge(
            lambda x: judged(x, "real"), real, fake, round, self.recipe.penalty, fake_critic=lambda x: judged(x, "fake")
        )
        terms = {"gan": self.objective.discriminator(found.real, found.fake).mean(), **found.penalties}
        return {**terms, **self.adaptation(round, fake)}

    def pairs(self, round: Round) -> Tensor:
        """Generated pairs [N, 2, C, R, R]."""
        return torch.stack(self.generator(self.prior.of(round)), 1)

    def adaptation(self, round: Round, fake: Tensor) -> Terms:
        """Domain a's classes, and the same code for both images of a generated pair (section 4 of the paper)."""
        terms, recipe = {}, self.recipe
        if recipe.class_weight:
            logits = self.discriminator.classes(self.real(round)[0])
            terms["class"] = recipe.class_weight * F.cross_entropy(logits, round["label"])
            round.note("class_accuracy", (logits.argmax(1) == round["label"]).float().mean())
        if recipe.feature_weight:
            code = self.discriminator.code(fake[:, 0], fake[:, 1]).flatten(1)  # [2N, units]
            a, b = code.chunk(2)
            terms["feature"] = recipe.feature_weight * (a - b).square().sum(1).mean()
        return terms

    def generator_loss(self, round: Round) -> Terms:
        fake, real = self.pairs(round), None
        logits = self.discriminator(fake[:, 0], fake[:, 1], self.numbers(round, "fake"))
        if self.objective.uses_real_in_generator:
            real = self.discriminator(*self.real(round), self.numbers(round, "real"))
        return {"gan": self.objective.generator(logits, real).mean()}

    # ---- use
    def sample(self, n: int, seed: int = 0, *, z: Tensor | None = None, domain: str = "a", batch: int = 256) -> Tensor:
        """n images in [-1, 1], [n, C, R, R], from the seed or from latents z [n, latent].

        domain: a, b, or both: the images of a pair beside each other, [n, C, R, 2R].
        """
        if domain not in (*DOMAINS, "both"):
            raise unknown("domain", domain, (*DOMAINS, "both"))
        z = self.draw_latents(n, seed) if z is None else z

        def made(z: Tensor) -> Tensor:
            pair = self.generator(z)
            return torch.cat(pair, 3) if domain == "both" else pair[place(domain)]

        with self.evaluating():
            x = in_parts(made, z, batch=batch)
        return 2 * x - 1 if self.recipe.network == "digits" else x

    def show(self, rows: int = 8) -> tuple[Tensor, int]:
        """(pairs [4 rows, C, R, 2R], columns): what a run's samples show while it trains."""
        return self.sample(4 * rows, domain="both"), 4

    def interpolate(self, start: Tensor, end: Tensor, steps: int = 8, *, domain: str = "both") -> Tensor:  # type: ignore[override]
        """Pairs along the straight line between two latents [latent]: both domains move together."""
        return self.sample(steps, z=line(start, end, steps), domain=domain)

    def transform(self, x: Tensor, to: str = "b", *, steps: int = 200, lr: float = 0.1, seed: int = 0) -> Tensor:
        """Images of the other domain, [N, C, R, R] in [-1, 1] -> the same shape: g2(argmin_z |g1(z) - x|^2).

        steps of Adam from random latents. What g1 cannot make cannot be transformed.
        """
        z = self.draw_latents(len(x), seed).requires_grad_()
        optimizer = torch.optim.Adam([z], lr=lr)
        source, target = 1 - place(to), self.seen(x)
        modes = [(m, m.training) for m in self.modules()]
        self.eval()
        try:
            for _ in range(steps):
                loss = (self.generator(z)[source] - target).square().flatten(1).sum(1)
                (z.grad,) = torch.autograd.grad(loss.sum(), z)
                optimizer.step()
        finally:
            for module, training in modes:
                module.training = training
        return self.sample(len(x), z=z.detach(), domain=to)

    def classify(self, x: Tensor, domain: str = "b") -> Tensor:
        """Class of each image [N, C, R, R] in [-1, 1] of one domain, int64 [N] (domain adaptation)."""
        with self.evaluating():
            return in_parts(lambda x: self.discriminator.classes(x, domain), self.seen(x)).argmax(1)
