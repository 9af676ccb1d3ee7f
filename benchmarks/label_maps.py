"""Label, instance and image of four examples of each set with label maps, as in docs/how-to/translation.md.

python benchmarks/label_maps.py docs/images/label-maps.png
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from saddlepoint.data.options import Options
from saddlepoint.data.paired import MAPS, Layout, find
from saddlepoint.data.pixels import from_planes, to_pixels, to_planes
from saddlepoint.layers.label_maps import coloured

SIDE, GAP = 80, 3
SHOWN = {"openmoji-layers": (480, 420, 600, 1000), "maps-classes": (1330, 1500, 900, 2500), "world": (6, 4, 3, 0)}


def colours(count: int) -> NDArray[np.uint8]:
    """Those of the sample pictures, white first."""
    made = coloured(torch.arange(count)[None, None])[0, :, 0].T  # [count, 3]
    return np.concatenate([np.full((1, 3), 255), ((made + 1) * 127.5).round().numpy()]).astype(np.uint8)


def shown(layout: Layout, name: str, index: int) -> NDArray[np.uint8]:
    """One picture or map of a set, uint8 [SIDE, SIDE, 3]."""
    column = layout.column(name)
    options = Options.parse(SIDE).settled(column.facts())
    image = column.load(options).read(index)
    if name not in MAPS:
        return to_pixels(image, options).transpose(1, 2, 0)
    ids = from_planes(to_planes(image, options))
    count = len(layout.label_names) if name == "label" else int(ids.max()) + 1
    return colours(count)[ids]


def columns() -> Iterator[NDArray[np.uint8]]:
    """Label, instance, image of each example, one above the other."""
    for spec, indices in SHOWN.items():
        layout = find(spec)
        for index in indices:
            parts = [shown(layout, name, index) for name in ("label", "instance", "b")]
            yield np.concatenate([np.pad(p, ((0, GAP), (0, GAP), (0, 0)), constant_values=255) for p in parts])


if __name__ == "__main__":
    Image.fromarray(np.concatenate(list(columns()), 1)[:-GAP, :-GAP]).save(sys.argv[1], optimize=True)
