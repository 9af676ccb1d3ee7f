from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from saddlepoint import tracking
from saddlepoint.errors import UserError
from saddlepoint.layers.conditional import (
    ConditionalNorm,
    TabulatedBatchNorm,
    standing,
    standing_statistics,
    truncated,
)
from saddlepoint.layers.spectral import Spectral


def images(n: int = 4, channels: int = 3) -> Tensor:
    torch.manual_seed(1)
    return 3 * torch.randn(n, channels, 5, 4).double() + 1


def perturbed(norm: ConditionalNorm) -> ConditionalNorm:
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in norm.parameters():
            parameter.normal_()
    return norm.double()


def by_hand(x: Tensor, gain: Tensor, offset: Tensor, eps: float = 1e-5) -> Tensor:
    y = F.batch_norm(x, None, None, None, None, True, 0.0, eps)
    return y * (1 + gain)[:, :, None, None] + offset[:, :, None, None]


class TestForms:
    def test_a_table(self) -> None:
        norm, x, label = perturbed(ConditionalNorm(3, classes=5)), images(), torch.tensor([4, 0, 0, 2])
        gain, offset = norm.gain.table, norm.offset.table
        assert gain is not None and offset is not None
        torch.testing.assert_close(norm(x, label), by_hand(x, gain.weight[label], offset.weight[label]))

    def test_a_linear_map_of_a_vector(self) -> None:
        norm, x, v = perturbed(ConditionalNorm(3, size=2, bias=True)), images(), torch.randn(4, 2).double()
        gain, offset = norm.gain.linear, norm.offset.linear
        assert gain is not None and offset is not None
        torch.testing.assert_close(norm(x, vector=v), by_hand(x, gain(v), offset(v)))

    def test_both_add_up(self) -> None:
        norm, x = perturbed(ConditionalNorm(3, classes=2, size=2)), images()
        label, v = torch.tensor([1, 0, 1, 0]), torch.randn(4, 2).double()
        gain, offset = norm.gain(label, None) + norm.gain(None, v), norm.offset(label, None) + norm.offset(None, v)
        torch.testing.assert_close(norm(x, label, v), by_hand(x, gain, offset))

    def test_a_table_that_says_the_same_of_all_classes_is_batch_norm(self) -> None:
        x = images()
        expected = F.batch_norm(x, None, None, None, None, True, 0.0, 1e-5)
        torch.testing.assert_close(ConditionalNorm(3, classes=5).double()(x, torch.arange(4)), expected)

    def test_mixed_classes(self) -> None:
        norm, x = perturbed(ConditionalNorm(3, classes=2)), images()
        ends = [norm(x, torch.full((4,), y)) for y in (0, 1)]
        torch.testing.assert_close(norm(x, torch.tensor([[0.3, 0.7]] * 4).double()), 0.3 * ends[0] + 0.7 * ends[1])

    def test_the_linear_maps_are_normalised(self) -> None:
        norm = ConditionalNorm(3, size=2, spectral=Spectral())
        assert {name for name, _ in norm.named_buffers()} >= {"gain.linear.u0", "offset.linear.sv0"}

    def test_neither_label_nor_vector(self) -> None:
        with pytest.raises(UserError, match="needs a label"):
            ConditionalNorm(3, classes=2)(images())


class TestStyles:
    def test_instance_statistics_are_torchs(self) -> None:
        norm, x = ConditionalNorm(3, classes=1, style="instance").double(), images()
        theirs = torch.nn.InstanceNorm2d(3, track_running_stats=True).double()
        label = torch.zeros(4, dtype=torch.int64)
        for scale in (1, 2):
            with tracking.collecting() as ledger:
                y = norm(scale * x, label)
            tracking.commit(ledger)
            torch.testing.assert_close(y, theirs(scale * x))
        torch.testing.assert_close(norm.eval()(x, label), theirs.eval()(x))

    def test_none(self) -> None:
        x = images()
        assert torch.equal(
            ConditionalNorm(3, classes=1, style="none").double()(x, torch.zeros(4, dtype=torch.int64)), x
        )

    def test_unknown(self) -> None:
        with pytest.raises(UserError, match="batch"):
            ConditionalNorm(3, classes=1, style="bath")  # type: ignore[arg-type]

    def test_biased_variance(self) -> None:
        x, label = images(), torch.zeros(4, dtype=torch.int64)
        for biased in (False, True):
            norm = ConditionalNorm(3, classes=1, biased=biased, momentum=1.0).double()
            with tracking.collecting() as ledger:
                norm(x, label)
            tracking.commit(ledger)
            torch.testing.assert_close(norm.norm.running_var, x.var((0, 2, 3), correction=int(not biased)))


class TestStandingStatistics:
    def test_one_batch_then_evaluation_is_the_training_pass(self) -> None:
        norm = perturbed(ConditionalNorm(3, classes=5, biased=True))
        x, label = images(), torch.tensor([4, 0, 0, 2])
        expected = norm(x, label)
        norm.eval()
        before = {k: v.clone() for k, v in norm.state_dict().items()}
        found = standing_statistics(norm, (norm(x, label) for _ in range(1)))
        assert not torch.allclose(norm(x, label), expected)
        with standing(found):
            torch.testing.assert_close(norm(x, label), expected)
        assert all(torch.equal(v, before[k]) for k, v in norm.state_dict().items())

    def test_the_mean_over_batches(self) -> None:
        norm = ConditionalNorm(3, classes=1, biased=True).double().eval()
        label, batches = torch.zeros(4, dtype=torch.int64), [images(), 2 * images()]
        found = standing_statistics(norm, (norm(x, label) for x in batches))
        mean = torch.stack([x.mean((0, 2, 3)) for x in batches]).mean(0)
        torch.testing.assert_close(found[0][1], mean)


class TestTables:
    def norm(self) -> TabulatedBatchNorm:
        norm = TabulatedBatchNorm(2, 6, affine=False).double().eval()
        norm.running_mean.copy_(torch.arange(6.0)[:, None] * torch.tensor([1.0, 10.0]))
        return norm

    def test_rows_and_what_lies_between(self) -> None:
        norm, x = self.norm(), torch.zeros(1, 2, 1, 1).double()
        for truncation, row in ((0.0, 0.0), (0.4, 2.0), (0.37, 1.85), (1.0, 5.0)):
            with truncated(norm, truncation):
                torch.testing.assert_close(norm.at(norm.running_mean), torch.tensor([row, 10 * row]).double())
                torch.testing.assert_close(norm(x)[0, 0, 0, 0].item(), -row / (1 + 1e-5) ** 0.5)
        assert norm.truncation == 1.0

    def test_swapped_weights(self) -> None:
        norm = self.norm()
        norm.swapped = True
        with truncated(norm, 0.37):  # 0.85 of the lower row and 0.15 of the upper one
            torch.testing.assert_close(norm.at(norm.running_mean)[0].item(), 0.85 * 1 + 0.15 * 2)

    def test_it_is_continuous_where_the_quotient_is_rounded(self) -> None:
        norm = TabulatedBatchNorm(1, 51).double()
        norm.running_mean.copy_(torch.arange(51.0)[:, None])
        with truncated(norm, 0.58):  # 0.58 / 0.02 is a little less than 29
            assert norm.at(norm.running_mean).item() == pytest.approx(29)

    def test_training_moves_every_row(self) -> None:
        norm = self.norm().train()
        before = norm.running_mean.clone()
        with tracking.collecting() as ledger:
            norm(images(channels=2))
        tracking.commit(ledger)
        assert (norm.running_mean != before).all()

    def test_outside(self) -> None:
        with pytest.raises(UserError, match="0 to 1"), truncated(self.norm(), 1.5):
            pass
