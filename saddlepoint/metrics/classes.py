"""The Inception-score form on any classifier's logits: exp(E KL(p(c|x) || p(c))).

Salimans et al. 2016 (arXiv:1606.03498). On the 1,008 logits of the 2015 Inception network, without their bias, it is
the Inception score; on another classifier's it is that classifier's score and is called so.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from saddlepoint.errors import UserError
from saddlepoint.metrics.arrays import Estimate, check_count, feature_matrix, mean_of

ROWS = 256
LEAST = -1e4  # where the exponential is 0 long since, and 0 times it still 0


def inception_score(logits: Any, splits: int = 10, *, seed: int | None = None) -> Estimate:
    """exp(mean over x of KL(p(c|x) || mean p)), averaged over `splits` consecutive parts; from 1 to K.

    logits: [N, K] before the softmax. seed: shuffle first, as torchmetrics does; official code does not, and folders
    sorted by class then score lower. `parts` holds the splits, `standard_error` their std(ddof=1) / sqrt(splits);
    papers print numpy.std(parts). Biased downwards for few samples per split. Raises UserError for N < splits.
    """
    check_count("splits", splits, 1)
    z = feature_matrix("logits", logits, minimum=splits)
    if z.shape[1] < 2:
        raise UserError(f"logits have {z.shape[1]} class; expected [N, K] with at least 2.")
    if seed is not None:
        z = z[torch.from_numpy(np.random.default_rng(seed).permutation(len(z))).to(z.device)]
    parts = []
    for i in range(splits):
        parts.append(_of_one(z[i * len(z) // splits : (i + 1) * len(z) // splits]))
    return mean_of(parts, f"{splits} split{'s' * (splits != 1)} of {len(z) // splits}")


def _of_one(logits: Tensor) -> float:
    """exp(H(mean p) - mean H(p)) with one exponential per logit, in float64, in blocks that fit the cache."""
    negative_entropy = 0.0
    total = torch.zeros(logits.shape[1], dtype=torch.float64, device=logits.device)
    for rows in logits.split(ROWS):
        z = rows.double()
        z = z.sub_(z.max(dim=1, keepdim=True).values).clamp_(min=LEAST)
        p = z.exp()
        norm = p.sum(dim=1, keepdim=True)
        p /= norm
        total += p.sum(dim=0)
        negative_entropy += float((torch.linalg.vecdot(p, z) - norm[:, 0].log()).sum())
    mean = total / len(logits)
    information = negative_entropy / len(logits) - float(torch.xlogy(mean, mean).sum())
    return math.exp(max(0.0, information))  # below 0 by rounding only
