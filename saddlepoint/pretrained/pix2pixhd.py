"""Official weights of pix2pixHD (NVIDIA/pix2pixHD) in our game.

A released file (`latest_net_G.pth`) is a bare state dict of one network: G1 and the encoder have `model.<i>`, the
generator of 2048x1024 `model1_1.` besides, discriminators `scale<k>_layer<j>.0` (or `layer<k>.<i>` where they were
trained without feature matching). Pass several with "G.", "D.", "E." and "VGG." before their names. Widths and depths
are read off the tensors; of what they do not tell the official defaults hold.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from saddlepoint import recipes
from saddlepoint.errors import UserError, unknown
from saddlepoint.layers.vgg import VGG19
from saddlepoint.pretrained.placing import place
from saddlepoint.recipes.pix2pixhd import CITYSCAPES, Pix2PixHDRecipe
from saddlepoint.recipes.translation import officially
from saddlepoint.systems.pix2pixhd import Pix2PixHD

PARTS = {"G": "generator", "D": "discriminator", "E": "encoder", "VGG": "vgg"}
# Official options -> settings of ours that take the value as it is.
PLAIN = {
    "input_nc": "input_channels", "output_nc": "channels", "ngf": "width", "ndf": "d_width", "nef": "e_width",
    "norm": "norm", "n_downsample_global": "downs", "n_blocks_global": "blocks", "n_local_enhancers": "enhancers",
    "n_blocks_local": "local_blocks", "n_downsample_E": "e_downs", "n_layers_D": "n_layers", "num_D": "scales",
    "label_nc": "labels", "pool_size": "pool", "n_clusters": "clusters", "label_feat": "label_features",
    "batchSize": "batch", "netG": "network", "padding_type": "padding", "use_dropout": "dropout",
    "n_layers": "n_layers", "n_blocks": "blocks", "n_downsampling": "downs",
}  # fmt: skip
WORDED = (
    "no_instance", "instance_feat", "feat_num", "load_features", "no_lsgan", "use_sigmoid", "getIntermFeat",
    "no_ganFeat_loss", "no_vgg_loss", "lambda_feat", "lr", "beta1", "no_flip", "loadSize", "fineSize", "niter",
    "niter_decay", "niter_fix_global",
)  # fmt: skip
IGNORED = (
    "isTrain", "model", "name", "resize_or_crop", "continue_train", "load_pretrain", "which_epoch", "data_type",
    "fp16", "local_rank", "phase", "dataroot", "gpu_ids", "checkpoints_dir", "verbose", "serial_batches", "nThreads",
    "max_dataset_size", "use_encoded_image", "cluster_path", "dataset_mode",
)  # fmt: skip
OFFICIAL = 35  # classes of Cityscapes, which label_nc is unless it is given
STALE = ("running_mean", "running_var", "num_batches_tracked")  # what old instance norms kept
LARGEST = 512  # blocks, layers, scales and halvings that a file may claim


def load(state: Mapping[str, Tensor], **config: Any) -> Pix2PixHD:
    """A pix2pixhd with these weights: "G.", "D.", "E." and "VGG." names, or one network's alone.

    config: options of the official code by their names (label_nc, no_instance, netG, ngf, num_D, instance_feat, ...) or
    of its constructors (input_nc, n_downsampling, n_blocks, num_D, getIntermFeat, use_sigmoid). A generator that comes
    without label_nc or input_nc and takes 36 or 39 channels is Cityscapes' (35 classes, edges, 3 features); one that
    takes others is given as many input channels. A generator that neither the file nor an option describes is built
    narrow. UserError for unknown options and tensors that do not fit.
    """
    for name in config:
        if name not in (*PLAIN, *WORDED, *IGNORED):
            raise unknown("option of pix2pixHD's official code", name, [*PLAIN, *WORDED])
    found = split(state)
    from saddlepoint.systems import build

    game = build(recipe_of(found, config))
    assert isinstance(game, Pix2PixHD)
    for part, tensors in found.items():
        if tensors and part == "VGG":
            game.vgg = VGG19(tensors, "VGG of pix2pixhd")
        elif tensors:
            own = {name for name, _ in game.get_submodule(PARTS[part]).named_parameters()}
            own |= {name for name, _ in game.get_submodule(PARTS[part]).named_buffers()}
            kept = {n: t for n, t in tensors.items() if n in own or n.split(".")[-1] not in STALE}
            place(game.get_submodule(PARTS[part]), kept, where=f"{part} of pix2pixhd")
    return game


def split(state: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """{network: official names -> tensors}; a bare file is recognised by its names."""
    found: dict[str, dict[str, Tensor]] = {part: {} for part in PARTS}
    bare: dict[str, Tensor] = {}
    for full, tensor in state.items():
        name = full.removeprefix("weights/").removeprefix("module.")
        vgg = re.match(r"^(?:VGG\.|(?:criterionVGG|vgg_loss)\.vgg\.|vgg\.)(.*)$", name)
        match = re.match(r"^(?:net)?([GDE])[./](.*)$", name)
        if vgg:
            found["VGG"][vgg[1]] = tensor
        elif match:
            found[match[1]][match[2].removeprefix("module.")] = tensor
        elif re.match(r"^(net)?[A-Z]\w{0,8}\.", name):
            raise unknown("network of pix2pixhd", name.partition(".")[0], [*PARTS])
        else:
            bare[name] = tensor
    if bare:
        found[kind_of(bare)].update(bare)
    found["D"] = as_scales(found["D"])
    return found


def kind_of(tensors: Mapping[str, Tensor]) -> str:
    """The network that names without prefix are of."""
    if any(re.match(r"^(scale\d+_layer\d+|layer\d+)\.", n) for n in tensors):
        return "D"
    if any(n.startswith("slice") for n in tensors):
        return "VGG"
    blocks = any(".conv_block." in n for n in tensors)
    return "G" if blocks or not any(n.startswith("model.") for n in tensors) else "E"


def as_scales(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names of a discriminator that was trained without feature matching (layer<k>.<i>) as scale<k>_layer<j>.<i'>.

    There the layers of one scale lie in one Sequential: convolution, leaky ReLU; convolution, norm, leaky ReLU; ...
    """
    made = {}
    for name, tensor in tensors.items():
        match = re.fullmatch(r"layer(\d{1,3})\.(\d{1,4})\.(\w+)", name)
        if match is None:
            made[name] = tensor
            continue
        place_in = int(match[2])
        layer, inside = (0, place_in) if place_in < 2 else (1 + (place_in - 2) // 3, (place_in - 2) % 3)
        made[f"scale{match[1]}_layer{layer}.{inside}.{match[3]}"] = tensor
    return made


# ---- the recipe that says the same
def recipe_of(found: Mapping[str, Mapping[str, Tensor]], config: Mapping[str, Any]) -> Pix2PixHDRecipe:
    """The recipe of these tensors and official options; where both speak the tensors decide the shapes."""
    values: dict[str, Any] = {"channels": 3, "labels": 0, "instances": False, "resolution": 256, "aspect": 1}
    if not found["G"]:  # only asked for by name, or small
        values |= {"width": 4, "downs": 2, "blocks": 1, "local_blocks": 1}
    values |= {PLAIN[name]: value for name, value in config.items() if name in PLAIN}
    values |= worded(config)
    seen = {"G": of_generator, "D": of_discriminator, "E": of_encoder}
    for part, reader in seen.items():
        if found[part]:
            values |= reader(found[part])
    takes, judged = values.pop("takes", 0), values.pop("judged", 0)
    values |= _inputs(values, config, takes, judged)
    halvings = values.get("downs", 4) + (values.get("enhancers", 1) if values.get("network") == "local" else 0)
    values["resolution"] = max(values["resolution"], 2 * 2 ** min(halvings, 16))
    settings = {"lr": float(config.get("lr", 2e-4)), "betas": (float(config.get("beta1", 0.5)), 0.999), "kind": "adam"}
    made = recipes.recipe("pix2pixhd", "paper", **{**values, "load_size": 0, "g": settings, "d": settings})
    assert isinstance(made, Pix2PixHDRecipe)
    return made


def _inputs(values: Mapping[str, Any], config: Mapping[str, Any], takes: int, judged: int) -> dict[str, Any]:
    """labels, instances, features and input_channels that make up the channels that the networks take."""
    photo = int(values["channels"]) if judged != int(values["channels"]) else 1
    told = {"label_nc", "no_instance"} & set(config)
    features = int(values.get("features", 0))
    if not told and takes in (OFFICIAL + 1, OFFICIAL + 4) and "input_nc" not in config:
        features = takes - OFFICIAL - 1
        return {"labels": OFFICIAL, "instances": True, "features": features, "input_channels": 0, "channels": photo}
    instances = not config.get("no_instance", not told)
    labels = int(config.get("label_nc", OFFICIAL if told and "input_nc" not in config else 0))
    if features and not told:
        instances = True
    rest = 3
    if not labels:
        known = takes - features if takes else judged - photo if judged else int(values.get("input_channels", 3))
        rest = known - instances if takes or judged else known
        if rest < 1:
            raise UserError(
                f"these networks take {takes or judged} channels, too few for {features} features, "
                f"{int(instances)} edge map and a picture; check feat_num, no_instance and label_nc."
            )
    needs = {"instances": True} if features and not instances and not config.get("label_feat") else {}
    if needs and takes:
        raise UserError("features are means over instances: no_instance=True needs label_feat=True.")
    return {
        "labels": labels, "instances": instances, "features": features, "channels": photo,
        "input_channels": 0 if labels else rest, **needs,
    }  # fmt: skip


def worded(config: Mapping[str, Any]) -> dict[str, Any]:
    """Settings from the official options that are not settings of ours word for word."""
    values: dict[str, Any] = {}
    if config.get("instance_feat") or config.get("label_feat") or config.get("load_features"):
        values["features"] = int(config.get("feat_num", 3))
    if config.get("no_lsgan") or config.get("use_sigmoid"):
        values["gan_mode"] = "vanilla"
    weight = float(config.get("lambda_feat", 10.0))
    values |= {"feature_matching": weight, "perceptual": weight}
    if config.get("no_ganFeat_loss") or config.get("getIntermFeat") is False:
        values["feature_matching"] = 0.0
    if config.get("no_vgg_loss"):
        values["perceptual"] = 0.0
    epochs = (int(config.get("niter", 100)), int(config.get("niter_decay", 100)))
    values |= officially(CITYSCAPES, *epochs)
    values["fix_global_kimg"] = CITYSCAPES * int(config.get("niter_fix_global", 0))
    if "no_flip" in config:
        values["mirror"] = not config["no_flip"]
    if "fineSize" in config:
        values["resolution"] = int(config["fineSize"])
    elif "loadSize" in config:
        values["resolution"] = int(config["loadSize"])
    return values


# ---- what the tensors say
def _first(tensors: Mapping[str, Tensor], name: str, part: str) -> Tensor:
    if name not in tensors or tensors[name].ndim != 4:
        raise UserError(f"these weights of {part} have no convolution {name!r}.")
    return tensors[name]


def _norm(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """batch norm has weights of one axis; nothing is learnt by the others."""
    return {"norm": "batch"} if any(t.ndim == 1 and n.endswith(".weight") for n, t in tensors.items()) else {}


def of_generator(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Architecture and widths of a generator."""
    first = _first(tensors, "model.1.weight", "G")
    enhancers = len({m[1] for n in tensors if (m := re.match(r"^model(\d{1,3})_1\.", n))})
    numbers = {int(m[1]) for n in tensors if (m := re.match(r"^model\.(\d{1,5})\.conv_block\.", n))}
    wide = {n: t for n, t in tensors.items() if t.ndim == 4}
    heads = sorted(int(m[1]) for n in wide if (m := re.match(r"^model\.(\d{1,5})\.weight$", n)))
    downs = (len(heads) - (1 if enhancers else 2)) // 2
    values: dict[str, Any] = {"blocks": len(numbers), "downs": downs, "takes": first.shape[1], "width": len(first)}
    if min(len(numbers), LARGEST) < len(numbers) or not 0 <= downs <= LARGEST:
        raise UserError(f"these weights of G claim {len(numbers)} blocks and {downs} halvings.")
    inside = {n.split(".")[3] for n in wide if n.startswith(f"model.{min(numbers, default=0)}.conv_block.")}
    layouts = {("1", "5"): (None, False), ("1", "6"): (None, True), ("0", "3"): ("zero", False),
               ("0", "4"): ("zero", True)}  # fmt: skip
    padding, dropout = layouts.get(tuple(sorted(inside)), (None, False))  # type: ignore[arg-type]
    values |= {"dropout": dropout, **({"padding": padding} if padding else {}), **_norm(tensors)}
    if not enhancers:
        last = wide[f"model.{heads[-1]}.weight"]
        return {**values, "network": "global", "channels": len(last)}
    local = {int(m[1]) for n in wide if (m := re.match(r"^model1_2\.(\d{1,5})\.conv_block\.", n))}
    tails = [int(m[1]) for n in wide if (m := re.match(rf"^model{enhancers}_2\.(\d{{1,5}})\.weight$", n))]
    last = wide[f"model{enhancers}_2.{max(tails, default=0)}.weight"]
    own = _first(tensors, f"model{enhancers}_1.1.weight", "G")
    shape = {"network": "local", "enhancers": enhancers, "local_blocks": len(local)}
    return {**values, **shape, "width": len(own), "channels": len(last)}


def of_discriminator(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Scales, layers and widths of a discriminator."""
    found = [(int(m[1]), int(m[2])) for n in tensors if (m := re.match(r"^scale(\d{1,3})_layer(\d{1,3})\.0\.", n))]
    first = _first(tensors, "scale0_layer0.0.weight", "D")
    values: dict[str, Any] = {"scales": 1 + max(k for k, _ in found), "n_layers": max(j for _, j in found) - 1}
    return {**values, "d_width": len(first), "judged": first.shape[1], **_norm(tensors)}


def of_encoder(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Halvings and widths of an encoder."""
    first = _first(tensors, "model.1.weight", "E")
    wide = {n: t for n, t in tensors.items() if t.ndim == 4}
    heads = sorted(int(m[1]) for n in wide if (m := re.match(r"^model\.(\d{1,5})\.weight$", n)))
    features = len(wide[f"model.{heads[-1]}.weight"])
    values: dict[str, Any] = {"e_width": len(first), "e_downs": (len(heads) - 2) // 2, "channels": first.shape[1]}
    return {**values, "features": features, **_norm(tensors)}
