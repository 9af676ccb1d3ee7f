"""What networks see of label maps and of maps of objects: one-hot classes, edges, means over objects, and their looks.

Shared by pix2pixHD and GauGAN. Ids are whole numbers [N, H, W] (or [N, 1, H, W]); nothing here mixes them.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from saddlepoint.errors import UserError

IGNORED = 255  # the id of pixels without a class
PER_CLASS = 1000  # instance ids of Cityscapes: 1000 class + number


def maps_of(maps: Tensor) -> Tensor:
    """[N, H, W] or [N, 1, H, W] of any type -> int64 [N, H, W]."""
    if maps.ndim == 4 and maps.shape[1] == 1:
        maps = maps[:, 0]
    if maps.ndim != 3:
        raise UserError(f"a map of shape {list(maps.shape)}; expected [N, H, W] or [N, 1, H, W].")
    return maps.long()


def one_hot(label: Tensor, classes: int, dtype: torch.dtype = torch.float32, *, dont_care: bool = False) -> Tensor:
    """Class ids [N, H, W] -> [N, classes + dont_care, H, W] of zeros and ones.

    dont_care: pixels of id 255 (or `classes`) have a class of their own. UserError names ids that are no class.
    """
    label, count = maps_of(label), classes + dont_care
    if dont_care:
        label = torch.where(label == IGNORED, classes, label)
    strange = (label < 0) | (label >= count)
    if bool(strange.any()):
        ids = label[strange].unique().tolist()
        shown = ", ".join(map(str, ids[:8])) + (f" and {len(ids) - 8} more" if len(ids) > 8 else "")
        extra = f", or {IGNORED} for don't care" if dont_care else ""
        near = 0 if ids[0] < 0 else classes - 1
        raise UserError(
            f"the label map has the unknown id{'s' * (len(ids) != 1)} {shown} on {int(strange.sum())} pixels; expected "
            f"0 to {classes - 1}{extra}; nearest: {near}. (--labels says how many classes there are.)"
        )
    made = torch.zeros(len(label), count, *label.shape[1:], dtype=dtype, device=label.device)
    return made.scatter_(1, label[:, None], 1.0)


def edges(instance: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Instance ids [N, H, W] -> [N, 1, H, W]: 1 where one of the four neighbours has another id, on both sides."""
    instance = maps_of(instance)
    across = instance[:, :, 1:] != instance[:, :, :-1]
    along = instance[:, 1:] != instance[:, :-1]
    found = torch.zeros_like(instance, dtype=torch.bool)
    found[:, :, 1:] |= across
    found[:, :, :-1] |= across
    found[:, 1:] |= along
    found[:, :-1] |= along
    return found[:, None].to(dtype)


def instance_mean(x: Tensor, instance: Tensor) -> Tensor:
    """Every pixel gets the mean of x [N, C, H, W] over its instance in its own image; instance: ids [N, H, W]."""
    n, channels = x.shape[:2]
    ids = maps_of(instance).flatten(1)  # [N, HW]
    _, dense = ids.unique(return_inverse=True)
    count = int(dense.max()) + 1
    place = (dense + count * torch.arange(n, device=ids.device)[:, None]).flatten()  # [N HW]
    flat = x.flatten(2).transpose(1, 2).reshape(-1, channels)  # [N HW, C]
    sums = flat.new_zeros(n * count, channels).index_add(0, place, flat)
    sizes = flat.new_zeros(n * count).index_add(0, place, torch.ones_like(flat[:, 0])).clamp_min(1)
    mean = (sums / sizes[:, None])[place]
    return mean.view(n, -1, channels).transpose(1, 2).reshape(x.shape)


def coloured(label: Tensor) -> Tensor:
    """Class ids [N, H, W] -> [N, 3, H, W] in [-1, 1]: hues by the golden angle, so that neighbouring ids differ, some
    paler, some darker.
    """
    ids = maps_of(label)
    hue, saturation, value = 0.618034 * ids.double() % 1, 0.35 + 0.225 * (ids % 3), 0.95 - 0.25 * (ids % 2)
    wheel = torch.tensor([0.0, 2 / 3, 1 / 3], dtype=torch.float64, device=ids.device).view(1, 3, 1, 1)
    pure = (((hue[:, None] + wheel) % 1 * 6 - 3).abs() - 1).clamp(0, 1)  # red, green and blue of a hue
    return (value[:, None] * (1 - saturation[:, None] * (1 - pure)) * 2 - 1).float()


# ---- objects
def class_of(number: int) -> int:
    """The class of an instance id in Cityscapes: the id itself, or 1000 class + number."""
    return number if number < PER_CLASS else number // PER_CLASS


def objects(instance: Tensor, label: Tensor | None = None) -> list[tuple[int, int, Tensor]]:
    """(id, class, pixels) of every instance of one image: ids [H, W], classes [H, W] (None: Cityscapes' convention).

    pixels: their places in the flattened image, in order. A class is that of the pixel in the middle of the list.
    """
    flat, found = instance.flatten().long(), []
    for number in flat.unique().tolist():
        pixels = (flat == number).nonzero()[:, 0]
        middle = pixels[len(pixels) // 2]
        found.append((number, class_of(number) if label is None else int(label.flatten()[middle]), pixels))
    return found


def feature_table(features: Tensor, instance: Tensor, label: Tensor | None = None) -> dict[int, Tensor]:
    """{class: [objects, F + 1]}: the features of every object of a batch and its size relative to 1/32 of the image.

    features [N, F, H, W], constant on every instance: the pixel in the middle of its list is read, as published.
    """
    rows: dict[int, list[Tensor]] = {}
    height, width = features.shape[2:]
    for i, values in enumerate(features):
        for _, kind, pixels in objects(maps_of(instance)[i], None if label is None else maps_of(label)[i]):
            middle = values.flatten(1)[:, pixels[len(pixels) // 2]]
            size = middle.new_tensor([len(pixels) / max(1, height * width // 32)])
            rows.setdefault(kind, []).append(torch.cat([middle, size]))
    return {kind: torch.stack(found) for kind, found in rows.items()}


def clustered(table: Mapping[int, Tensor], clusters: int = 10, smallest: float = 0.5) -> dict[int, Tensor]:
    """{class: centres [<= clusters, F]}: K-means over objects above 1/64 of their image (scikit-learn, seed 0)."""
    from sklearn.cluster import KMeans

    centres = {}
    for kind, rows in table.items():
        large = rows[rows[:, -1] > smallest, :-1].double().cpu().numpy()
        if len(large):
            count = min(clusters, len(large))
            found = KMeans(count, n_init=10, random_state=0).fit(large).cluster_centers_
            centres[kind] = torch.from_numpy(found).to(rows.dtype)
    return centres
