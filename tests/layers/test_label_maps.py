"""One-hot classes, edges, means over objects and their looks: by hand, against numpy, and what is no class by name."""

from __future__ import annotations

import colorsys

import numpy as np
import pytest
import torch

from saddlepoint.errors import UserError
from saddlepoint.layers.label_maps import class_of, clustered, coloured, edges, feature_table, instance_mean, one_hot


class TestMaps:
    def test_edges_by_hand(self) -> None:
        ids = torch.tensor([[[1, 1, 2], [1, 1, 2], [1, 1, 1]]])
        expected = torch.tensor([[0, 1, 1], [0, 1, 1], [0, 0, 1]], dtype=torch.float32)
        assert torch.equal(edges(ids)[0, 0], expected)

    def test_two_half_planes_have_two_columns_of_edges(self) -> None:
        halves = torch.zeros(1, 4, 6, dtype=torch.int64)
        halves[:, :, 3:] = 7
        assert edges(halves)[0, 0].sum(0).tolist() == [0, 0, 4, 4, 0, 0]
        assert torch.equal(edges(halves.mT), edges(halves).mT), "rows as columns"
        assert edges(torch.full((2, 1, 3, 5), 9)).sum() == 0

    def test_means_over_instances_are_numpys(self) -> None:
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(2, 3, 5, 7, generator=generator, dtype=torch.float64)
        ids = torch.randint(0, 4, (2, 5, 7), generator=generator) * 11
        y = instance_mean(x, ids)
        for i in range(2):
            for number in ids[i].unique().tolist():
                inside = (ids[i] == number).numpy()
                for c in range(3):
                    assert np.allclose(y[i, c].numpy()[inside], x[i, c].numpy()[inside].mean())
        assert torch.allclose(instance_mean(y, ids), y)

    def test_the_gradient_of_a_pooled_pixel_is_one_over_its_instance(self) -> None:
        x = torch.rand(1, 1, 4, 4, requires_grad=True)
        ids = torch.zeros(1, 4, 4, dtype=torch.int64)
        ids[0, 0, :3] = 5
        (gradient,) = torch.autograd.grad(instance_mean(x, ids)[0, 0, 0, 1], x)
        expected = torch.zeros(4, 4)
        expected[0, :3] = 1 / 3
        assert torch.allclose(gradient[0, 0], expected)

    def test_one_hot_names_what_it_does_not_know(self) -> None:
        label = torch.tensor([[[0, 2], [1, 2]]])
        made = one_hot(label, 3)
        assert torch.equal(made.argmax(1), label) and torch.equal(made.sum(1), torch.ones(1, 2, 2))
        with pytest.raises(UserError, match=r"unknown id 2 on 2 pixels; expected 0 to 1; nearest: 1"):
            one_hot(label, 2)
        with pytest.raises(UserError, match="unknown ids -1, 9"):
            one_hot(torch.tensor([[[-1, 9]]]), 3)

    def test_colours_differ(self) -> None:
        found = coloured(torch.arange(40).view(1, 5, 8))
        assert found.abs().max() <= 1 and len({tuple(c.tolist()) for c in found[0].flatten(1).T}) == 40
        for n in range(40):
            expected = colorsys.hsv_to_rgb(0.618034 * n % 1, 0.35 + 0.225 * (n % 3), 0.95 - 0.25 * (n % 2))
            assert found[0, :, n // 8, n % 8].tolist() == pytest.approx([2 * v - 1 for v in expected], abs=1e-6)


class TestLooks:
    def test_a_table_by_hand(self) -> None:
        features = torch.zeros(1, 2, 4, 8)
        instance = torch.full((1, 4, 8), 3)
        instance[0, 0, :4] = 26001
        features[0, :, 0, :4] = torch.tensor([0.5, -1.0])[:, None]
        table = feature_table(features, instance)
        assert table[26].tolist() == [[0.5, -1.0, 4.0]] and table[3].tolist() == [[0.0, 0.0, 28.0]]
        assert class_of(999) == 999 and class_of(1000) == 1
        by_label = feature_table(features, instance, torch.full((1, 4, 8), 7))
        assert len(by_label[7]) == 2
        mixed = torch.full((1, 4, 8), 7)
        mixed[0, 0, 0] = mixed[0, 1, 0] = 2  # the first pixel of either object
        assert set(feature_table(features, instance, mixed)) == {7}, "the class of the middle pixel"

    def test_clusters_leave_small_objects_out(self) -> None:
        rows = torch.tensor([[0.0, 1.0], [0.1, 1.0], [1.0, 1.0], [9.0, 0.5]])
        centres = clustered({1: rows, 2: rows[3:]}, 2)
        assert sorted(centres[1].flatten().tolist()) == pytest.approx([0.05, 1.0]) and 2 not in centres
        assert len(clustered({1: rows}, 10)[1]) == 3
