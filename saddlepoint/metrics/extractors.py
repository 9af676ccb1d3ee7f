"""Networks that turn images into features, behind one small interface, each saying exactly which it is.

    extractor = features("efficientnet-lite0")
    extractor(images)          # [N, C, H, W] in [-1, 1] -> float32 [N, D]
    extractor.logits(images)   # [N, K] where it has classes
    extractor.identity         # name and hash of the weights
    extract(extractor, batches)  # many images, D numbers kept of each

A distance between features is a number about the features as much as about the images: it changes with the network,
its weights and the resize by more than most papers report as progress. Scores carry `provenance()`, and only the
network of 2015 with its own resize makes a FID.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from saddlepoint.errors import UserError, unknown
from saddlepoint.metrics.foreign import fingerprint, sha256_of
from saddlepoint.metrics.resize import RESIZES, check_images, resizer, rounded, to_channels

if TYPE_CHECKING:
    from saddlepoint.data import ImageSet

Progress = Callable[[int, int | None], None]  # (images done, images in all where known)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
MOST_FITTED = 2000  # images that `pixels-pca64` is fitted on


@dataclass(frozen=True, eq=False)
class Extractor:
    """A frozen network with its preparation of the images.

    name: in the table. identity: with the hash of the weights, equal for equal weights from whatever file. resize: its
    name and side. dimensions: D. classes: K, 0 without logits. facts: more for the provenance. source: the file of
    the weights and its hash, for the reader: the same weights come in several files.
    """

    name: str
    identity: str
    dimensions: int
    resize: str
    network: Callable[[Tensor], Tensor]  # prepared pixels -> features
    prepare: Callable[[Tensor], Tensor]  # pixels 0..255 [N, C, H, W] -> what the network takes
    head: Callable[[Tensor], Tensor] | None = None  # features -> logits
    classes: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    at_once: int = 256  # images through the network together on a CPU; more do not fit its caches
    facts: Mapping[str, Any] = field(default_factory=dict)
    source: Mapping[str, str] = field(default_factory=dict)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Features [N, D] in float32 of images [N, C, H, W] in [-1, 1], which are rounded to 8 bits first.

        Grey is repeated to three channels where the network takes colour. Raises UserError for another shape or type
        and for values that are not finite.
        """
        size = self.at_once if self.device.type == "cpu" else 8 * self.at_once
        found = []
        for part in check_images(images).split(size) if len(images) else [images]:
            prepared = self.prepare(rounded(part.to(self.device)))
            found.append(self.network(prepared.contiguous(memory_format=torch.channels_last)).float())
        return torch.cat(found)

    def logits(self, images: Tensor) -> Tensor:
        """Logits [N, K]. Raises UserError for an extractor without classes."""
        return self.both(images)[1]

    @torch.no_grad()
    def both(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(features, logits) from one pass through the network."""
        if self.head is None:
            raise UserError(
                f"the extractor {self.name!r} has no classes, so no logits. With classes: {', '.join(CLASSIFYING)}."
            )
        features = self(images)
        return features, self.head(features).float()

    def provenance(self) -> dict[str, Any]:
        """What a score must carry: scores of which any of this differs are not comparable."""
        return {
            "extractor": self.name,
            "extractor_identity": self.identity,
            "resize": self.resize,
            "extractor_dtype": "float32",
            "input": "[-1, 1], rounded to 8 bits",
            **self.facts,
        }


# ---- many images
def extract(
    extractor: Extractor,
    images: ImageSet | Tensor | NDArray[np.uint8] | Iterable[Any],
    *,
    batch: int = 64,
    logits: bool = False,
    progress: Progress | None = None,
) -> Any:
    """Features [N, D] as a float32 array of any number of images; with `logits`, the pair (features, logits).

    images: an opened set; a tensor [N, C, H, W] in [-1, 1]; an array of bytes; or an iterable of such pieces or of
    pairs (images, labels), which is read as it comes, so that only the features stay in memory. progress: called with
    (images done, images in all or None). Raises UserError when there are no images.
    """
    if batch < 1:
        raise UserError(f"batch {batch}; expected at least 1.")
    source: Any = getattr(images, "images", images)  # of an opened set
    whole = isinstance(source, Tensor | np.ndarray)
    total = len(source) if whole else None
    pieces = [source] if whole else source
    found: list[NDArray[np.float32]] = []
    heads: list[NDArray[np.float32]] = []
    done = 0
    for piece in _batches(pieces, batch):
        if logits:
            values, classes = extractor.both(piece)
            heads.append(classes.cpu().numpy())
        else:
            values = extractor(piece)
        found.append(values.cpu().numpy())
        done += len(piece)
        if progress:
            progress(done, total)
    if not found:
        raise UserError("no images to extract features of; expected at least one.")
    return (np.concatenate(found), np.concatenate(heads)) if logits else np.concatenate(found)


def _batches(pieces: Iterable[Any], batch: int) -> Iterator[Tensor]:
    """Pieces of any length -> batches of one length, the last one shorter."""
    waiting: list[Tensor] = []
    count = 0
    for piece in pieces:
        images = piece[0] if isinstance(piece, tuple | list) else piece
        for start in range(0, len(images), batch):
            part = _in_range(images[start : start + batch])
            waiting.append(part)
            count += len(part)
            if count >= batch:
                joined = torch.cat(waiting) if len(waiting) > 1 else waiting[0]
                yield joined[:batch]
                waiting, count = [joined[batch:]], count - batch
    if count:
        yield torch.cat(waiting)


def _in_range(images: Tensor | NDArray[Any]) -> Tensor:
    """Bytes of an array -> [-1, 1]; tensors as they are."""
    if isinstance(images, Tensor):
        return images
    if images.dtype == np.uint8:
        return torch.from_numpy(np.array(images)).float() / 127.5 - 1
    return torch.from_numpy(np.array(images))


# ---- resize, as "kind-side"
def parse_resize(resize: str, extractor: str) -> tuple[str, int]:
    """ "bicubic-128" -> ("bicubic", 128); "none" -> ("none", 0). Raises UserError."""
    if resize == "none":
        return "none", 0
    kind, _, side = resize.rpartition("-")
    if kind not in RESIZES or kind == "none" or not side.isdigit() or not 16 <= int(side) <= 1024:
        kinds = [name for name in RESIZES if name != "none"]
        raise UserError(
            f"resize {resize!r} of {extractor}; expected a kind ({', '.join(kinds)}) and a side from 16 to 1024, as "
            f"'bicubic-128', or 'none'."
        )
    return kind, int(side)


def _normalised(pixels: Tensor, mean: tuple[float, ...], deviation: tuple[float, ...]) -> Tensor:
    """0..255 -> ((x / 255) - mean) / deviation per channel."""
    return (pixels / 255 - pixels.new_tensor(mean).view(1, 3, 1, 1)) / pixels.new_tensor(deviation).view(1, 3, 1, 1)


def _colour(kind: str, side: int, then: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Resized, to three channels (in this order: grey is resized once), then scaled."""
    function = resizer(kind)
    return lambda pixels: then(to_channels(function(pixels, side), 3))


def _on(network: nn.Module, device: str | torch.device) -> nn.Module:
    """In evaluation mode, without gradients, with channels last: a quarter faster on CPUs."""
    network.eval().requires_grad_(False)
    return network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def _file(weights: Any, name: str, what: str, instead: str) -> Path:
    """The path of a weight file. Raises UserError saying which file it is where none is given or found."""
    if weights is None or not Path(weights).expanduser().is_file():
        found = "needs a weight file" if weights is None else f"found no weight file at {str(weights)!r}"
        raise UserError(f"{name} {found}. Give the path of {what}. Without one: {instead}.")
    return Path(weights).expanduser()


# ---- the extractors
def inception(weights: Any, resize: str | None, device: torch.device) -> Extractor:
    from saddlepoint.metrics import inception as net

    path = _file(
        weights,
        "inception-2015",
        f"one of these, as `weights`: {'; '.join(net.FILES)}; the SHA-256 of the first two begins with {net.KNOWN}",
        "'efficientnet-lite0' (colour), 'classifier' (labelled sets) or 'random-conv'; their distances are not FIDs",
    )
    kind = resize or "tf"
    if kind not in net.PREPARATIONS:
        raise unknown("resize of inception-2015", kind, net.PREPARATIONS)
    network, state = net.load(path)
    module = _on(network, device)
    return Extractor(
        name="inception-2015",
        identity=f"inception-2015@sha256:{fingerprint(state)[:16]}",
        dimensions=net.FEATURES,
        resize=kind,
        network=module,
        prepare=lambda pixels: to_channels(net.prepared(pixels, kind), 3),
        head=network.logits,
        classes=net.CLASSES,
        device=device,
        at_once=8,
        source={"file": path.name, "sha256": sha256_of(path)},
    )


def efficientnet_lite0(weights: Any, resize: str | None, device: torch.device) -> Extractor:
    from saddlepoint.metrics import lite

    kind, side = parse_resize(resize or "bicubic-128", "efficientnet-lite0")
    network, state = lite.load(weights)
    network = lite.fused(network)
    module = _on(network, device)
    return Extractor(
        name="efficientnet-lite0",
        identity=f"efficientnet-lite0@sha256:{fingerprint(state)[:16]}",
        dimensions=lite.FEATURES,
        resize=resize or "bicubic-128",
        network=module,
        prepare=_colour(kind, side, lite.scaled),
        head=network.fc,
        classes=lite.CLASSES,
        device=device,
        at_once=16,
    )


def vgg16(weights: Any, resize: str | None, device: torch.device) -> Extractor:
    from saddlepoint.metrics import trunks
    from saddlepoint.metrics.foreign import read
    from saddlepoint.pretrained.placing import place

    file = trunks.PLANS["vgg"].file
    path = _file(weights, "vgg16", f"torchvision's {file}", "'efficientnet-lite0' or 'random-conv'")
    kind, side = parse_resize(resize or "bicubic-224", "vgg16")
    network = trunks.VGG16()
    state = {name: tensor.float() for name, tensor in read(path).items()}
    place(network, state, where="VGG16")
    module = _on(network, device)
    return Extractor(
        name="vgg16",
        identity=f"vgg16@sha256:{fingerprint(state)[:16]}",
        dimensions=4096,
        resize=resize or "bicubic-224",
        network=module,
        prepare=_colour(kind, side, lambda x: _normalised(x, IMAGENET_MEAN, IMAGENET_STD)),
        head=network.logits,
        classes=1000,
        device=device,
        at_once=16,
        source={"file": path.name, "sha256": sha256_of(path)},
    )


def classifier(weights: Any, resize: str | None, device: torch.device) -> Extractor:
    from saddlepoint.metrics import classifier as trained

    if weights is None:
        raise UserError(
            "classifier is trained on a labelled set: name it as `weights` ('fashion-mnist', 'mnist-5k', 'digits', a "
            "folder with classes, a zip, or an opened set). Without labels: 'random-conv'."
        )
    _refuse_resize("classifier", resize)
    found = trained.classifier(weights)
    module = _on(found.network, device)
    return Extractor(
        name="classifier",
        identity=found.identity,
        dimensions=trained.FEATURES,
        resize=f"bicubic-{found.side}",
        network=module,
        prepare=lambda pixels: found.prepared(pixels / 127.5 - 1),
        head=found.network.logits,
        classes=found.network.output.out_features,
        device=device,
        facts={f"classifier_{name}": value for name, value in found.facts().items()},
    )


def random_conv(weights: Any, resize: str | None, device: torch.device) -> Extractor:
    """weights: the seed, 0 by default."""
    from saddlepoint.metrics import trunks

    seed = 0 if weights is None else weights
    if not isinstance(seed, int) and not str(seed).isdigit():
        raise UserError(f"random-conv takes a seed as `weights`, a number from 0 on, not {seed!r}.")
    kind, side = parse_resize(resize or "none", "random-conv")
    network = trunks.RandomConv(int(seed))
    identity = f"random-conv-{int(seed)}@sha256:{fingerprint(network.state_dict())[:16]}"
    module = _on(network, device)
    return Extractor(
        name="random-conv",
        identity=identity,
        dimensions=128,
        resize=resize or "none",
        network=module,
        prepare=_colour(kind, side, lambda x: x / 127.5 - 1),
        device=device,
    )


class PixelsPCA(nn.Module):
    """Pixels in [-1, 1] -> their first principal components about the mean of the reference."""

    mean: Tensor
    basis: Tensor

    def __init__(self, pixels: Tensor, components: int) -> None:
        """pixels: [N, P] in [-1, 1]."""
        super().__init__()
        x = pixels.double()
        mean = x.mean(0)
        x = x - mean
        # The smaller of the two Gram matrices; their eigenvectors give each other.
        if x.shape[1] <= x.shape[0]:
            basis = torch.linalg.eigh(x.T @ x)[1][:, -components:]
        else:
            values, vectors = torch.linalg.eigh(x @ x.T)
            basis = x.T @ vectors[:, -components:] / values[-components:].clamp_min(1e-12).sqrt()
        basis = basis.flip(1)
        largest = basis.abs().argmax(0, keepdim=True)
        basis = basis * basis.gather(0, largest).sign()  # eigenvectors have no sign of their own
        self.register_buffer("mean", mean.float())
        self.register_buffer("basis", basis.float())

    def forward(self, x: Tensor) -> Tensor:
        return (x.flatten(1) - self.mean) @ self.basis


def pixels_pca64(weights: Any, resize: str | None, device: torch.device) -> Extractor:
    """weights: the reference images, at most MOST_FITTED of which (evenly spread) are used."""
    if weights is None:
        raise UserError("pixels-pca64 is fitted on the reference images: give them as `weights` (a set or a tensor).")
    images = _reference(weights)
    kind, side = parse_resize(resize or "none", "pixels-pca64")
    shape = tuple(images.shape[1:])

    def prepare(pixels: Tensor) -> Tensor:
        if kind == "none" and tuple(pixels.shape[1:]) != shape:
            raise UserError(f"images of shape {list(pixels.shape[1:])}; pixels-pca64 was fitted on {list(shape)}.")
        x = to_channels(pixels, shape[0])
        return (resizer(kind)(x, side) if side else x) / 127.5 - 1

    # Channels last is another order of pixels; the basis is fitted on what `flatten` sees, which is not affected.
    flat = prepare(rounded(images)).flatten(1)
    if len(flat) <= 64 or flat.shape[1] < 64:
        raise UserError(f"pixels-pca64 needs more than 64 images of at least 64 pixels; got {list(images.shape)}.")
    network = PixelsPCA(flat, 64)
    identity = f"pixels-pca64@sha256:{fingerprint(network.state_dict())[:16]}"
    return Extractor(
        name="pixels-pca64",
        identity=identity,
        dimensions=64,
        resize=resize or "none",
        network=network.to(device),
        prepare=prepare,
        device=device,
        facts={"fitted_on": len(images)},
    )


def _reference(weights: Any) -> Tensor:
    """At most MOST_FITTED images in [-1, 1], evenly spread over those given."""
    from saddlepoint.data import open_set

    if isinstance(weights, str | Path):
        weights = open_set(weights)
    array = weights.images if hasattr(weights, "facts") else weights
    if not isinstance(array, Tensor | np.ndarray):
        raise UserError(f"pixels-pca64 is fitted on a set, a tensor or an array, not on a {type(weights).__name__}.")
    chosen = np.unique(np.linspace(0, len(array) - 1, min(len(array), MOST_FITTED)).astype(np.int64))
    return check_images(_in_range(array[torch.from_numpy(chosen)] if isinstance(array, Tensor) else array[chosen]))


def _refuse_resize(name: str, resize: str | None) -> None:
    if resize is not None:
        raise UserError(f"{name} has a resize of its own, which cannot be changed to {resize!r}.")


# ---- networks of other libraries
def _library(module: str, name: str) -> Any:
    import importlib

    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(
            f"{name} needs the package {module.replace('_', '-')}, which is not installed: pip install "
            f"{module.replace('open_clip', 'open_clip_torch')}. Without it: 'efficientnet-lite0' or 'random-conv'."
        ) from error


def _pretrained(loader: Any, weights: Any, name: str, example: str) -> Any:
    """A model of transformers from a folder or by its name in the hub."""
    if weights is None:
        raise UserError(
            f"{name} needs a model as `weights`: a folder that save_pretrained wrote, or a name in the hub ({example})."
        )
    folder = Path(str(weights)).expanduser()
    try:
        return loader.from_pretrained(str(folder) if folder.is_dir() else str(weights))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{name}: no model could be read at {str(weights)!r}; expected a folder that save_pretrained wrote, or a "
            f"name in the hub ({example}). transformers says: {str(error).strip().splitlines()[0]}"
        ) from error


class _Pooled(nn.Module):
    """A model of another library with a function that gets [N, D] out of it."""

    def __init__(self, model: nn.Module, pooled: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.model, self.pooled = model, pooled

    def forward(self, x: Tensor) -> Tensor:
        return self.pooled(self.model, x)


def _of_library(
    name: str, model: nn.Module, side: int, resize: str | None, device: torch.device,
    pooled: Callable[[nn.Module, Tensor], Tensor], mean: tuple[float, ...], deviation: tuple[float, ...],
) -> Extractor:  # fmt: skip
    stated = resize or f"bicubic-{side}"
    kind, side = parse_resize(stated, name)
    network = _on(_Pooled(model, pooled), device)
    prepare = _colour(kind, side, lambda x: _normalised(x, mean, deviation))
    with torch.no_grad():
        dimensions = network(prepare(torch.zeros(1, 3, side or 224, side or 224, device=device))).shape[1]
    identity = f"{name}@sha256:{fingerprint(model.state_dict())[:16]}"
    return Extractor(name, identity, dimensions, stated, network, prepare, device=device, at_once=16)


def dinov2(weights: Any, resize: str | None, device: torch.device) -> Extractor:
    """The class token after the last norm (Stein et al. 2023, arXiv:2306.04675, with ViT-L/14: 1024 numbers)."""
    library = _library("transformers", "dinov2")
    model = _pretrained(library.AutoModel, weights, "dinov2", "facebook/dinov2-large")
    return _of_library(
        "dinov2", model, 224, resize, device,
        lambda network, x: network(pixel_values=x).last_hidden_state[:, 0], IMAGENET_MEAN, IMAGENET_STD,
    )  # fmt: skip


def clip(weights: Any, resize: str | None, device: torch.device) -> Extractor:
    """The image embedding at unit length, as CMMD uses it (Jayasumana et al. 2024, arXiv:2401.09603)."""
    library = _library("transformers", "clip")
    model = _pretrained(library.CLIPModel, weights, "clip", "openai/clip-vit-large-patch14-336")

    def pooled(network: Any, x: Tensor) -> Tensor:
        found = network.get_image_features(pixel_values=x)
        return F.normalize(found if isinstance(found, Tensor) else found.pooler_output, dim=1)

    side = int(model.config.vision_config.image_size)
    return _of_library("clip", model, side, resize, device, pooled, CLIP_MEAN, CLIP_STD)


def open_clip(weights: Any, resize: str | None, device: torch.device) -> Extractor:
    """The image embedding at unit length of a model of open_clip; weights: "ARCHITECTURE@FILE or tag"."""
    library = _library("open_clip", "open-clip")
    architecture, at, pretrained = str(weights or "").partition("@")
    if not at or not pretrained:
        raise UserError("open-clip needs `weights` as ARCHITECTURE@FILE, for example ViT-B-32@open_clip_model.pt.")
    model = library.create_model(architecture, pretrained=pretrained)
    size = getattr(model.visual, "image_size", 224)
    side = int(size[0] if isinstance(size, tuple | list) else size)

    def pooled(network: Any, x: Tensor) -> Tensor:
        return F.normalize(network.encode_image(x), dim=1)

    return _of_library("open-clip", model, side, resize, device, pooled, CLIP_MEAN, CLIP_STD)


# ---- by name
@dataclass(frozen=True)
class Entry:
    """One line of the table: how it is built (from weights, resize, device) and what `weights` is."""

    build: Callable[[Any, str | None, torch.device], Extractor]
    summary: str
    weights: str
    classes: bool = False


EXTRACTORS: dict[str, Entry] = {
    "inception-2015": Entry(inception, "the network FID is defined with, 2048 numbers", "its file", True),
    "efficientnet-lite0": Entry(
        efficientnet_lite0,
        "ImageNet classifier, 1280 numbers; offline default for colour",
        "nothing, or its file",
        True,
    ),
    "classifier": Entry(classifier, "trained on a labelled set in a minute, 128 numbers", "the labelled set", True),
    "random-conv": Entry(random_conv, "random convolutions, 128 numbers; no training", "nothing, or a seed"),
    "pixels-pca64": Entry(pixels_pca64, "64 principal components of the pixels", "the reference images"),
    "vgg16": Entry(vgg16, "hidden layer of VGG16, 4096 numbers", "torchvision's file", True),
    "dinov2": Entry(dinov2, "class token of DINOv2, by transformers", "a folder or name of the model"),
    "clip": Entry(clip, "image embedding of CLIP, by transformers", "a folder or name of the model"),
    "open-clip": Entry(open_clip, "image embedding of CLIP, by open_clip", "ARCHITECTURE@FILE"),
}
CLASSIFYING = tuple(name for name, entry in EXTRACTORS.items() if entry.classes)


def features(
    name: str, weights: Any = None, *, resize: str | None = None, device: str | torch.device = "cpu"
) -> Extractor:
    """The extractor of that name.

    weights: what EXTRACTORS says: a file, a labelled set, the reference images, a seed. resize: "tf", "pytorch" or
    "clean" for inception-2015; a kind and a side ("bicubic-128") for the others. Raises UserError for an unknown name
    and for weights that are missing or do not fit, with the file and where it is published.
    """
    if name not in EXTRACTORS:
        raise unknown("extractor", name, EXTRACTORS)
    return EXTRACTORS[name].build(weights, resize, torch.device(device))


def automatic(images: ImageSet, spec: str = "") -> tuple[str, Any]:
    """(name, weights) of the best extractor for a set that needs no download.

    Grey images with classes: a classifier of that set. Other images in colour: efficientnet-lite0 where its package is
    installed. The rest: random-conv.
    """
    import importlib.util

    from saddlepoint.metrics import lite

    labelled = images.labels is not None and len(np.unique(images.labels)) >= 2
    if images.images.shape[1] == 1 and labelled:
        return "classifier", _training_set(images, spec)
    if images.images.shape[1] == 3 and importlib.util.find_spec(lite.PACKAGE) is not None:
        return "efficientnet-lite0", None
    return "random-conv", None


def _training_set(images: ImageSet, spec: str) -> Any:
    """The name of a named set, whatever its split and resolution here; any other set itself."""
    from saddlepoint.data import SETS

    base = spec.partition(":")[0]
    return base if base in SETS else images


def chosen(
    name: str, images: ImageSet, spec: str = "", *, weights: Any = None, device: str | torch.device = "cpu"
) -> Extractor:
    """`features` for scores against a set: "auto" is `automatic`, and what is trained or fitted on images is so on
    this set unless `weights` says otherwise. spec: the name or path that the set was opened by.
    """
    if name == "auto" and weights is not None:
        raise UserError(
            f"features auto choose by the images alone and need no weights; name the extractor of {weights!r}."
        )
    if name == "auto":
        name, weights = automatic(images, spec)
    elif weights is None and name == "classifier":
        weights = _training_set(images, spec)
    elif weights is None and name == "pixels-pca64":
        weights = images
    return features(name, weights, device=device)
