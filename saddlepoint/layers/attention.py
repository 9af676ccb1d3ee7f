"""Self-attention between the positions of an image's maps (Zhang et al. 2019, arXiv:1805.08318, section 3).

    x + gamma o(A g(x)),    A = softmax over keys of theta(x)^T phi(x)

As in the official code (and BigGAN's), not as printed: keys and values are max-pooled to a quarter of the positions
and the values have C/2 maps, not C/8; nothing divides the logits by a root. gamma starts at 0, where the layer is the
identity.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from saddlepoint.layers.spectral import OFF, Spectral, SpectralConv2d


class SelfAttention(nn.Module):
    """[N, C, H, W] -> [N, C, H, W], H and W even. 1.25 C^2 + 1 parameters where 8 divides C; no biases."""

    def __init__(self, channels: int, spectral: Spectral = OFF) -> None:
        super().__init__()
        narrow, wide = max(1, channels // 8), max(1, channels // 2)
        self.theta = SpectralConv2d(channels, narrow, 1, spectral, bias=False)
        self.phi = SpectralConv2d(channels, narrow, 1, spectral, bias=False)
        self.g = SpectralConv2d(channels, wide, 1, spectral, bias=False)
        self.o = SpectralConv2d(wide, channels, 1, spectral, bias=False)
        self.gamma = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        values = F.max_pool2d(self.g(x), 2).flatten(2)  # [N, C/2, HW/4]
        mixed = values @ self.weights(x).transpose(1, 2)  # [N, C/2, HW]
        return x + self.gamma * self.o(mixed.view(len(x), -1, *x.shape[2:]))

    def weights(self, x: Tensor) -> Tensor:
        """A: for each position (row by row) how much it takes from each pooled one, [N, HW, HW/4]; rows sum to 1."""
        queries = self.theta(x).flatten(2)  # [N, C/8, HW]
        keys = F.max_pool2d(self.phi(x), 2).flatten(2)  # [N, C/8, HW/4]
        return torch.softmax(queries.transpose(1, 2) @ keys, dim=2)
