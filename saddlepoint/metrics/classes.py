"""The Inception-score form on any classifier's logits: exp(E KL(p(c|x) || p(c))).

Salimans et al. 2016 (arXiv:1606.03498). On the 1,008 logits of the 2015 Inception network, without their bias, it is
the Inception score; on another classifier's it is that classifier's score and is called so.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from saddlepoint.errors import UserError
from saddlepoint.metrics.arrays import Estimate, check_count, feature_matrix, mean_of


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
        log_p = z[i * len(z) // splits : (i + 1) * len(z) // splits].double().log_softmax(dim=1)
        p = log_p.exp()
        log_mean = log_p.logsumexp(dim=0) - np.log(len(p))  # never the log of a mean that fell to 0
        gain = torch.where(p > 0, p * (log_p - log_mean), torch.zeros_like(p))
        parts.append(float(gain.sum(dim=1).mean().exp()))
    return mean_of(parts, f"{splits} split{'s' * (splits != 1)} of {len(z) // splits}")
