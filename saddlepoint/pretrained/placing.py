"""Putting foreign tensors into our modules, with nothing left out in silence."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from saddlepoint.errors import UserError, nearest

NAMED = 8  # spelled out in an error; the rest is counted


def place(
    module: nn.Module,
    found: Mapping[str, Tensor],
    *,
    where: str,
    optional: Callable[[str], bool] = lambda name: False,
    theirs: Mapping[str, str] | None = None,
) -> None:
    """Copy `found` (our name -> tensor) into the parameters and buffers of `module`.

    where: what the tensors are, for the error ("the generator of stylegan2"). optional: names of ours that need not be
    there (recomputed buffers). theirs: our name -> the name in the file, for the error.
    Raises UserError naming missing, superfluous and misshapen tensors; then nothing was written.
    """
    own: dict[str, Tensor] = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    called = theirs or {}
    missing = [called.get(n, n) for n in own if n not in found and not optional(n)]
    extra = [called.get(n, n) for n in found if n not in own]
    shapes = [
        f"{called.get(n, n)} is {list(found[n].shape)}, expected {list(own[n].shape)}"
        for n in found
        if n in own and found[n].shape != own[n].shape
    ]
    complaints = [
        *(_listed("missing", missing)),
        *(_listed("not known here", extra, [called.get(n, n) for n in own])),
        *(_listed("of another shape", shapes)),
    ]
    if complaints:
        raise UserError(f"these weights do not fit {where}: {'; '.join(complaints)}.")
    with torch.no_grad():
        for name, tensor in found.items():
            own[name].copy_(tensor)


def _listed(what: str, names: Sequence[str], known: Iterable[str] = ()) -> list[str]:
    """["missing (3): a, b, c"], or nothing."""
    if not names:
        return []
    choices = list(known)
    shown = [f"{n} (did you mean {near}?)" if (near := nearest(n, choices)) else n for n in names[:NAMED]]
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return [f"{what} ({len(names)}): {', '.join(shown)}{more}"]
