"""CycleGAN: Unpaired Image-to-Image Translation using Cycle-Consistent Adversarial Networks (Zhu et al. 2017,
arXiv:1703.10593).

G: a -> b and F: b -> a are learnt from two collections that have no pairs. An adversarial loss in each domain leaves
the map free; that there and back leads home, F(G(x)) = x and G(F(y)) = y, takes that freedom. Official code:
junyanz/pytorch-CycleGAN-and-pix2pix, whose names are kept: G_A is the paper's G, G_B its F, D_A judges domain b, D_B
domain a. Both generators are one player, both discriminators another. Where we differ:
- fakes of one batch meet the pool as it was before the batch (the same at the published batch of one);
- the generator table of the paper's older versions has 32 maps; like the code we begin with 64.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from saddlepoint.errors import UserError
from saddlepoint.game import Move, Player, Round, Terms
from saddlepoint.layers.translation import Noise, criterion, from_pool
from saddlepoint.recipes.cyclegan import CycleGANRecipe
from saddlepoint.systems.translation import (
    Translator,
    build_discriminator,
    build_generator,
    gradient_penalty,
    named_uniform,
)
from saddlepoint.tracking import track


class CycleGAN(Translator):
    """L(G, F, D_X, D_Y) = L_GAN(G, D_Y) + L_GAN(F, D_X) + lambda L_cyc(G, F) (eq. 3), with the identity term of 5.2."""

    averaged = ("G_A", "G_B")
    directions = ("a-to-b", "b-to-a")
    recipe: CycleGANRecipe
    pool_a: Tensor
    pool_b: Tensor
    pool_count: Tensor

    def __init__(self, recipe: CycleGANRecipe) -> None:
        super().__init__(recipe)
        if recipe.identity and self.inputs != self.outputs:
            raise UserError(
                f"the identity term needs domains of equal channels, and these have {self.inputs} and {self.outputs}; "
                "use identity=0, or input_channels and channels that are equal."
            )
        self.G_A = build_generator(recipe, self.inputs, self.outputs)
        self.G_B = build_generator(recipe, self.outputs, self.inputs)
        self.D_A = build_discriminator(recipe, self.outputs)
        self.D_B = build_discriminator(recipe, self.inputs)
        side = recipe.shape
        self.register_buffer("pool_a", torch.zeros(recipe.pool, self.inputs, *side))  # past fakes of domain a
        self.register_buffer("pool_b", torch.zeros(recipe.pool, self.outputs, *side))
        self.register_buffer("pool_count", torch.zeros(()))
        self.players = (
            Player("generators", [self.G_A, self.G_B], self.generators_loss, steps=recipe.g.steps),
            Player("discriminators", [self.D_A, self.D_B], self.discriminators_loss, steps=recipe.d.steps),
        )

    @property
    def generator(self) -> nn.Module:
        """G: a -> b."""
        return self.G_A

    def way(self, direction: str) -> nn.Module:
        return self.G_A if direction == "a-to-b" else self.G_B

    def moves(self, step: int) -> list[Move]:
        """The generators on new images, then the discriminators on the fakes that were made before that step."""
        g, d = self.recipe.g.steps, self.recipe.d.steps
        return [Move("generators", "data")] * g + [Move("discriminators", "same")] * d

    def noise(self, round: Round, use: str) -> Noise | None:
        """Dropout's numbers for one use of a generator."""
        return named_uniform(round, use) if self.recipe.dropout else None

    def there(self, round: Round) -> tuple[Tensor, ...]:
        """(G(x), F(G(x)), F(y), G(F(y)))."""
        fake_b = self.G_A(round["a"], self.noise(round, "fake_b"))
        rec_a = self.G_B(fake_b, self.noise(round, "rec_a"))
        fake_a = self.G_B(round["b"], self.noise(round, "fake_a"))
        rec_b = self.G_A(fake_a, self.noise(round, "rec_b"))
        return fake_b, rec_a, fake_a, rec_b

    def generators_loss(self, round: Round) -> Terms:
        x, y, recipe = round["a"], round["b"], self.recipe
        fake_b, rec_a, fake_a, rec_b = round.keep("there", lambda: self.there(round))
        identity: Terms = {}
        if recipe.identity:
            idt_a = self.G_A(y, self.noise(round, "idt_a"))
            idt_b = self.G_B(x, self.noise(round, "idt_b"))
            identity = {
                "idt_A": recipe.lambda_b * recipe.identity * l1(idt_a, y),
                "idt_B": recipe.lambda_a * recipe.identity * l1(idt_b, x),
            }
        return {
            "G_A": criterion(recipe.gan_mode, self.D_A(fake_b), True),
            "G_B": criterion(recipe.gan_mode, self.D_B(fake_a), True),
            "cycle_A": recipe.lambda_a * l1(rec_a, x),
            "cycle_B": recipe.lambda_b * l1(rec_b, y),
            **identity,
        }

    def discriminators_loss(self, round: Round) -> Terms:
        fake_b, _, fake_a, _ = round.keep("there", lambda: self.there(round))
        fake_b, fake_a = self.pooled(round, fake_b, fake_a)
        mode, terms = self.recipe.gan_mode, {}
        for name, D, real, fake in (("D_A", self.D_A, round["b"], fake_b), ("D_B", self.D_B, round["a"], fake_a)):
            terms[name] = 0.5 * (criterion(mode, D(real), True) + criterion(mode, D(fake), False))
            if self.recipe.gradient_penalty and round.asks(f"penalty_{name}"):
                weight = self.recipe.gradient_penalty
                terms[f"penalty_{name}"] = gradient_penalty(D, real, fake, round, weight, f"mix_{name}")
        return terms

    def pooled(self, round: Round, fake_b: Tensor, fake_a: Tensor) -> tuple[Tensor, Tensor]:
        """The fakes that the discriminators are shown: half of them from the pool, once it is full."""
        if not self.recipe.pool:
            return fake_b, fake_a
        shown = []
        for name, pool, fake in (("b", self.pool_b, fake_b), ("a", self.pool_a, fake_a)):
            numbers = round.common(f"pool_{name}", round.total, 2)
            picked, after, count = from_pool(pool, self.pool_count, fake, numbers, round.first)
            track(pool, after, 1.0)
            shown.append(picked)
        track(self.pool_count, count, 1.0)
        return shown[0], shown[1]


def l1(y: Tensor, target: Tensor) -> Tensor:
    """Mean absolute difference over all elements."""
    return (y.to(target.dtype) - target).abs().mean()
