"""Official BigGAN weights in our game: ajbrock/BigGAN-PyTorch, and huggingface/pytorch-pretrained-BigGAN's deep layout.

The first has G, D and G_ema as state dicts; the second the generators that were published for TensorFlow, with running
statistics for 51 truncations. What the shapes tell need not be said; what they do not tell (the epsilons, the number of
power iterations, everything of training) takes the official constructors' defaults.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from saddlepoint import recipes
from saddlepoint.errors import UserError, unknown
from saddlepoint.layers.spectral import settled
from saddlepoint.pretrained.placing import place
from saddlepoint.pretrained.published import Published, counted, under
from saddlepoint.recipes.biggan import BigGANRecipe, half_life_kimg
from saddlepoint.systems.biggan import D_UNITS, UNITS, BigGAN

# ---- options of ajbrock/BigGAN-PyTorch
MODEL = ("module", "model")
G_OPTIONS = (
    "G_ch", "dim_z", "bottom_width", "resolution", "G_kernel_size", "G_attn", "n_classes", "num_G_SVs",
    "num_G_SV_itrs", "G_shared", "shared_dim", "hier", "mybn", "G_activation", "G_nl", "G_lr", "G_B1", "G_B2",
    "adam_eps", "BN_eps", "SN_eps", "G_init", "G_param", "norm_style", "G_depth", "cross_replica", "G_mixed_precision",
    "G_fp16", "skip_init", "no_optim",
)  # fmt: skip
D_OPTIONS = (
    "D_ch", "D_wide", "resolution", "D_kernel_size", "D_attn", "n_classes", "num_D_SVs", "num_D_SV_itrs",
    "D_activation", "D_nl", "D_lr", "D_B1", "D_B2", "adam_eps", "SN_eps", "output_dim", "D_init", "D_param", "D_depth",
    "D_mixed_precision", "D_fp16", "skip_init",
)  # fmt: skip
TRAINING = (
    "batch_size", "num_D_steps", "num_G_accumulations", "num_D_accumulations", "G_ortho", "D_ortho", "ema",
    "ema_decay", "ema_start",
)  # fmt: skip
# What says nothing of our networks or training: file handling, devices, evaluation, and what the cases note.
PASSED_OVER = (
    "cross_replica", "G_mixed_precision", "G_fp16", "D_mixed_precision", "D_fp16", "skip_init", "no_optim",
    "G_batch_size", "toggle_grads", "split_D", "use_ema", "itr", "blocks_stored", "grad_names", "truncations",
)  # fmt: skip
INITIAL = {"ortho": "orthogonal", "N02": "normal", "glorot": "glorot", "xavier": "glorot"}
STYLES = {"bn": "batch", "in": "instance", "nonorm": "none"}
# ---- options of huggingface/pytorch-pretrained-BigGAN
HF_OPTIONS = (
    "output_dim", "z_dim", "class_embed_dim", "channel_width", "num_classes", "layers", "attention_layer_position",
    "eps", "n_stats",
)  # fmt: skip
PUBLISHED = {"swapped": "swapped_tables"}  # of ours: statistics interpolated as that code has it


def load(state: Mapping[str, Tensor], **config: Any) -> BigGAN:
    """A biggan with these weights; see `saddlepoint.pretrained.load`.

    state: official names, "G.", "G_ema." (preferred) or "D." before those of the players where there are two. config:
    the official constructors' options, directly or as G_kwargs and D_kwargs; module="BigGANdeep"; of training
    batch_size, num_D_steps, the learning rates, betas and adam_eps, G_ortho, D_ortho, ema_decay and ema_start. For the
    deep generators from TensorFlow, the options of their configuration, directly or as config={...}; swapped=True
    interpolates their statistics with exchanged weights, as the code that published them.
    Raises UserError for an unknown option, one that cannot be had here, and tensors that do not fit, by their names.
    """
    parts = split(state)
    if parts["published"]:
        return published(parts["published"], config)
    options = options_of(config, parts)
    game = BigGAN(recipe_of(options, parts))
    for letter, player in (("G", "generator"), ("D", "discriminator")):
        if parts[letter]:
            fill(game, player, parts[letter])
    return game


def is_biggan(found: Any) -> bool:
    """Is this the content of a file of either code base: a state dict of one network?"""
    own = ({"linear.weight", "output_layer.2.weight"}, {"linear.weight", "embed.weight"},
           {"embeddings.weight", "generator.gen_z.weight_orig"})  # fmt: skip
    names = {str(name).removeprefix("module.") for name in found} if isinstance(found, Mapping) else set()
    return any(needed <= names for needed in own)


def from_biggan(found: Mapping[str, Any]) -> Published:
    """What G.pth, G_ema.pth or D.pth of BigGAN-PyTorch holds, or pytorch_model.bin of a published deep generator."""
    state = {str(n).removeprefix("module."): t for n, t in found.items() if isinstance(t, Tensor)}
    if "embeddings.weight" in state:
        origin, live = "the PyTorch port of the published biggan-deep", state
    else:
        origin, live = "BigGAN-PyTorch", under("D" if "embed.weight" in state else "G", state)
    said = (counted("read", state), "the epsilons of norms are not in the file: taken as the official defaults")
    return Published(origin=origin, system="biggan", live=live, said=said)


def split(state: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """{"G": ..., "D": ..., "published": ...} of official names without prefixes."""
    parts: dict[str, dict[str, Tensor]] = {"G_ema": {}, "G": {}, "D": {}, "": {}}
    for name, tensor in state.items():
        plain = name.removeprefix("weights/").removeprefix("module.")
        match = re.match(r"^(G_ema|G|D)[./](.*)$", plain)
        key, rest = (match[1], match[2]) if match else ("", plain)
        parts[key][rest.removeprefix("module.")] = tensor
    found: dict[str, dict[str, Tensor]] = {"G": parts["G_ema"] or parts["G"], "D": parts["D"], "published": {}}
    one = parts[""] or found["G"]
    if any(name.startswith(("generator.", "embeddings.")) for name in one):
        return {"G": {}, "D": {}, "published": one}
    if parts[""]:
        judge = any(name.startswith(("embed.", "input_conv.")) for name in parts[""])
        found["D" if judge else "G"].update(parts[""])
    return found


# ---- ajbrock/BigGAN-PyTorch: names
def official_name(name: str, own_norm: bool = False) -> str:
    """Our name of a parameter or buffer -> the official one. own_norm: of the official code's own batch norm (mybn)."""
    inner = "bn." if own_norm else ""
    name = re.sub(r"\.offset\.(table|linear)\.", ".bias.", name)
    name = re.sub(r"\.gain\.(table|linear)\.", ".gain.", name)
    name = re.sub(r"(bn\d)\.norm\.running_(mean|var)$", rf"\1.{inner}stored_\2", name)
    name = re.sub(r"^output_norm\.running_(mean|var)$", rf"output_layer.0.{inner}stored_\1", name)
    name = name.replace("output_norm.weight", "output_layer.0.gain").replace("output_norm.bias", "output_layer.0.bias")
    return re.sub(r"^output\.", "output_layer.2.", name)


def official_names(module: torch.nn.Module, own_norm: bool = False) -> dict[str, str]:
    """Our name of every parameter and buffer -> the official one."""
    own = (*dict(module.named_parameters()), *dict(module.named_buffers()))
    return {name: official_name(name, own_norm) for name in own}


def fill(game: BigGAN, player: str, tensors: Mapping[str, Tensor]) -> None:
    """Put official tensors into a player's module. Without spectral norm in the file, its vectors are made anew."""
    module = game.get_submodule(player)
    given = {n: t for n, t in tensors.items() if not n.endswith("accumulation_counter")}
    theirs = official_names(module, any(".bn.stored_mean" in n for n in given))
    named = {ours: given[official] for ours, official in theirs.items() if official in given}
    known = set(theirs.values())
    rest = {name: tensor for name, tensor in given.items() if name not in known}
    plain = not any(re.search(r"\.u\d+$", name) for name in given)
    vectors = re.compile(r"\.(u|sv|v)\d+$")
    place(
        module, {**named, **rest}, where=f"the {player} of biggan", theirs=theirs,
        optional=lambda name: plain and bool(vectors.search(name)),
    )  # fmt: skip
    if plain:
        settled(module)


# ---- ajbrock/BigGAN-PyTorch: options
def options_of(config: Mapping[str, Any], parts: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Any]:
    """Official options: constructors' defaults, then what the shapes tell, then what was given."""
    known = (*MODEL, "config", "G_kwargs", "D_kwargs", *G_OPTIONS, *D_OPTIONS, *TRAINING, *PASSED_OVER)
    given: dict[str, Any] = {}
    nested = (("G_kwargs", G_OPTIONS), ("D_kwargs", D_OPTIONS), ("config", (*TRAINING, *G_OPTIONS, *D_OPTIONS)))
    for name, value in config.items():
        if name not in known:
            raise unknown("option of biggan's official code", name, known)
        given |= {} if name in ("G_kwargs", "D_kwargs", "config") else {name: value}
    for name, allowed in nested:
        for option, value in dict(config.get(name) or {}).items():
            if option not in (*allowed, *MODEL, *PASSED_OVER):
                raise unknown(f"option of biggan's official {name}", option, allowed)
            given[option] = value
    fixed = {"G_kernel_size": 3, "D_kernel_size": 3, "output_dim": 1}
    for name, value in fixed.items():
        if given.get(name, value) != value:
            raise UserError(f"{name} is {given[name]}; expected {value}: nothing else is built here.")
    for name in ("G_nl", "D_nl", "G_activation", "D_activation"):
        word = given.get(name, "relu")
        if isinstance(word, str) and word not in ("relu", "inplace_relu", "ir"):
            raise UserError(f"{name} is {word!r}; expected 'relu' or 'inplace_relu': nothing else is built here.")
    defaults = {
        "G_attn": "64", "D_attn": "64", "G_shared": True, "hier": False, "BN_eps": 1e-5, "SN_eps": 1e-12,
        "D_wide": True, "G_depth": 2, "D_depth": 2, "bottom_width": 4, "norm_style": "bn", "G_param": "SN",
        "D_param": "SN",
    }  # fmt: skip
    return {**defaults, **_told(parts, given), **given}


def _told(parts: Mapping[str, Mapping[str, Tensor]], given: Mapping[str, Any]) -> dict[str, Any]:
    """The options that shapes and names of the tensors tell."""
    g, d = parts["G"], parts["D"]
    found: dict[str, Any] = {}
    deep = any(name.startswith("input_conv.") or ".conv4." in name for name in (*g, *d))
    found["module"] = "BigGANdeep" if deep else "BigGAN"
    if "linear.weight" in g:
        found |= _told_by_generator(g, deep, int(given.get("G_depth", 2)))
    if "embed.weight" in d:
        found |= _told_by_discriminator(d, deep)
    return found


def _blocks(tensors: Mapping[str, Tensor]) -> int:
    return len({name.split(".")[1] for name in tensors if name.startswith("blocks.")})


def _sides(tensors: Mapping[str, Tensor], side_of: Any) -> str:
    """Sides of the maps with attention, as the official option says them."""
    found = {side_of(int(name.split(".")[1])) for name in tensors if name.endswith(".gamma")}
    return "_".join(map(str, sorted(found))) or "0"


def _told_by_generator(g: Mapping[str, Tensor], deep: bool, depth: int) -> dict[str, Any]:
    per_level = depth if deep else 1
    resolution = 4 * 2 ** (_blocks(g) // per_level)
    found: dict[str, Any] = {"resolution": resolution, "mybn": any(".bn.stored_mean" in n for n in g)}
    found["G_param"] = "SN" if "linear.u0" in g else "none"
    found["num_G_SVs"] = sum(bool(re.match(r"linear\.u\d+$", n)) for n in g) or 1
    found["G_attn"] = _sides(g, lambda block: 4 * 2 ** (block // per_level + 1))
    own = UNITS.get(resolution, (4,) * 4)
    if "output_layer.2.weight" in g:
        found["G_ch"] = g["output_layer.2.weight"].shape[1] // own[-1]
        found["bottom_width"] = math.isqrt(len(g["linear.weight"]) // (own[0] * max(found["G_ch"], 1)))
    inputs, gain = g["linear.weight"].shape[1], g.get("blocks.0.0.bn1.gain.weight")
    found["G_shared"], found["dim_z"] = "shared.weight" in g, inputs
    if "shared.weight" in g and gain is not None:
        found["n_classes"], found["shared_dim"] = g["shared.weight"].shape
        found["hier"] = gain.shape[1] > found["shared_dim"]
        if found["hier"]:
            found["dim_z"] = inputs - found["shared_dim"] if deep else inputs * (_blocks(g) + 1)
    elif gain is not None:
        found["n_classes"] = len(gain)
    return found


def _told_by_discriminator(d: Mapping[str, Tensor], deep: bool) -> dict[str, Any]:
    levels = _blocks(d) - (not deep)  # that halve, but for the smallest network
    resolution = 4 * 2**levels
    first = d["input_conv.weight"] if deep else d["blocks.0.0.conv2.weight"]
    found: dict[str, Any] = {"resolution": resolution, "n_classes": len(d["embed.weight"])}
    found["D_ch"] = len(first) // (D_UNITS[resolution][0] if resolution in D_UNITS else 4)
    if not deep:
        found["D_wide"] = len(d["blocks.0.0.conv1.weight"]) == len(first)
    found["D_param"] = "SN" if "linear.u0" in d else "none"
    found["num_D_SVs"] = sum(bool(re.match(r"linear\.u\d+$", n)) for n in d) or 1
    found["D_attn"] = _sides(d, lambda level: 16 if resolution == 32 else max(4, resolution // 2 ** (level + 1)))
    return found


def _attended(option: Any, scale: int) -> tuple[int, ...]:
    """ "32_64" -> (32, 64); "0" is none. scale: of sides, for first maps of another size than 4."""
    return tuple(int(side) * scale // 4 for side in str(option).split("_") if int(side or 0))


def recipe_of(o: Mapping[str, Any], parts: Mapping[str, Mapping[str, Tensor]]) -> BigGANRecipe:
    """The recipe that says the same as official options."""
    model = str(o.get("module", o.get("model", "BigGAN")))
    if model not in ("BigGAN", "BigGANdeep"):
        raise unknown("module of biggan's official code", model, ("BigGAN", "BigGANdeep"))
    for name, table in (("norm_style", STYLES), ("G_init", INITIAL), ("D_init", INITIAL)):
        if o.get(name, next(iter(table))) not in table:
            raise unknown(name, str(o[name]), table)
    base, latent = int(o["bottom_width"]), int(o.get("dim_z", 128))
    shared, width = bool(o["G_shared"]), int(o.get("G_ch", o.get("D_ch", 64)))
    if o["hier"] and not shared:
        raise UserError("hier needs G_shared: officially a chunk of z goes beside the shared vector of the class.")
    values: dict[str, Any] = {
        "network": "deep" if model == "BigGANdeep" else "biggan",
        "resolution": int(o.get("resolution", 128)) * base // 4,
        "channels": _channels(parts),
        "classes": int(o.get("n_classes", 1000)),
        "width": width,
        "d_width": int(o.get("D_ch", width)),
        "depth": int(o["G_depth"]),
        "d_depth": int(o["D_depth"]),
        "base": base,
        "latent": latent,
        "hierarchical": bool(o["hier"]),
        "shared": shared,
        "embedding": int(o.get("shared_dim") or latent),
        "attention": _attended(o["G_attn"], base),
        "d_attention": _attended(o["D_attn"], base),
        "official_sides": True,
        "spectral_g": o["G_param"] == "SN",
        "spectral_d": o["D_param"] == "SN",
        "singular_values": int(o.get("num_G_SVs", 1)),
        "d_singular_values": int(o.get("num_D_SVs", 1)),
        "power_iterations": int(o.get("num_G_SV_itrs", 1)),
        "d_power_iterations": int(o.get("num_D_SV_itrs", 1)),
        "spectral_eps": float(o["SN_eps"]),
        "norm": STYLES[o["norm_style"]],
        "norm_eps": float(o["BN_eps"]),
        "output_eps": 1e-5,
        "biased_norm": bool(o.get("mybn", False)),
        "initial": INITIAL[o.get("G_init", "ortho")],
        "wide": bool(o["D_wide"]),
    }
    return recipes.recipe("biggan", "128", **values, **_training(o))  # type: ignore[return-value]


def _channels(parts: Mapping[str, Mapping[str, Tensor]]) -> int:
    """Of the images, from the tensors next to them; officially always 3."""
    if "output_layer.2.weight" in parts["G"]:
        return len(parts["G"]["output_layer.2.weight"])
    first = parts["D"].get("input_conv.weight", parts["D"].get("blocks.0.0.conv1.weight"))
    return 3 if first is None else int(first.shape[1])


def _training(o: Mapping[str, Any]) -> dict[str, Any]:
    """What the official loop was given. Its penalty's weight is twice that of ours; num_D_steps batches are a round."""
    values: dict[str, Any] = {"ema_start_kimg": 0.0}
    parts = int(o.get("num_D_accumulations", 1))
    batch, steps = int(o.get("batch_size", 64)) * parts, int(o.get("num_D_steps", 1))
    values |= {"batch": batch, "accumulate": parts, "d.steps": steps, "g.steps": 1}
    values["orthogonal"], values["orthogonal_d"] = 0.5 * float(o.get("G_ortho", 0)), 0.5 * float(o.get("D_ortho", 0))
    for player, lr in (("G", 5e-5), ("D", 2e-4)):
        head = player.lower()
        values[f"{head}.lr"] = float(o.get(f"{player}_lr", lr))
        values[f"{head}.betas"] = (float(o.get(f"{player}_B1", 0.0)), float(o.get(f"{player}_B2", 0.999)))
        values[f"{head}.eps"] = float(o.get("adam_eps", 1e-8))
    values["ema_half_life_kimg"] = half_life_kimg(float(o.get("ema_decay", 0.9999)), batch * steps)
    if "ema" in o and not o["ema"]:
        values["ema_half_life_kimg"] = 0.0
    values["ema_start_kimg"] = int(o.get("ema_start", 0)) * batch * steps / 1000
    return values


# ---- huggingface/pytorch-pretrained-BigGAN
def published(tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> BigGAN:
    """The deep generators that were published for TensorFlow; there is no discriminator, so that one is new."""
    known = ("config", *HF_OPTIONS, *PUBLISHED, *MODEL, *PASSED_OVER)
    given: dict[str, Any] = {}
    for name, value in [*config.items(), *dict(config.get("config") or {}).items()]:
        if name not in known:
            raise unknown("option of the published biggan-deep", name, known)
        given[name] = value
    game = BigGAN(_published_recipe(tensors, given))
    attention = next((int(n.split(".")[2]) for n in tensors if n.endswith(".gamma")), len(tensors))
    latent = game.recipe.latent
    named = dict(_placed(tensors, attention, latent))
    theirs = {ours: name for name, (ours, _) in zip(tensors, _placed(tensors, attention, latent), strict=True)}
    place(
        game.generator, named, where="the generator of biggan-deep", theirs=theirs,
        optional=lambda name: name.endswith(".sv0"),
    )  # fmt: skip
    with torch.no_grad():
        for layer in game.generator.modules():
            if hasattr(layer, "spectral"):
                u, v = layer.get_buffer("u0"), layer.get_buffer("v0")
                layer.get_buffer("sv0").copy_((u @ layer.get_parameter("weight").flatten(1) @ v.T).reshape(1))
    return game


def _published_recipe(tensors: Mapping[str, Tensor], given: Mapping[str, Any]) -> BigGANRecipe:
    """The recipe of a published generator: what was said, else what the shapes tell."""
    needed = {n: f"generator.{n}" for n in ("conv_to_rgb.weight_orig", "gen_z.weight_orig", "bn.running_means")}
    needed["embeddings.weight"] = "embeddings.weight"
    missing = [name for name in needed.values() if name not in tensors]
    if missing:
        raise UserError(f"these weights do not fit the generator of biggan-deep: missing {', '.join(missing)}.")
    shapes = {n: tensors[name].shape for n, name in needed.items()}
    width = int(given.get("channel_width", shapes["conv_to_rgb.weight_orig"][0]))
    embedding = int(given.get("class_embed_dim", shapes["embeddings.weight"][0]))
    layers = given.get("layers") or _published_layers(tensors, width)
    blocks = sorted({int(n.split(".")[2]) for n in tensors if n.endswith(".gamma")})
    position = int(given.get("attention_layer_position", blocks[0] if blocks else len(layers)))
    words = [f"{a}:{b}{':up' if up else ''}" for up, a, b in layers]
    if 0 < position <= len(words):
        words.insert(position, "attention")
    resolution = 4 * 2 ** sum(bool(up) for up, _, _ in layers)  # the official code never reads output_dim either
    eps = float(given.get("eps", 1e-4))
    latent = int(given.get("z_dim", shapes["gen_z.weight_orig"][1] - embedding))
    return recipes.recipe(  # type: ignore[return-value]
        "biggan", "deep-128", resolution=resolution, channels=3, classes=int(given.get("num_classes",
        shapes["embeddings.weight"][1])), width=width, layout=tuple(words), latent=latent, embedding=embedding,
        norm_eps=eps, output_eps=eps, spectral_eps=eps, truncate="scale", stored_vectors=True, wide_output=True,
        truncation_tables=int(given.get("n_stats", shapes["bn.running_means"][0])),
        swapped_tables=bool(given.get("swapped", False)), standing=0,
    )  # fmt: skip


def _published_layers(tensors: Mapping[str, Tensor], width: int) -> list[tuple[bool, int, int]]:
    """(up, in, out) of each block in units; without a configuration every second block doubles, as in all published."""
    numbers = sorted({int(n.split(".")[2]) for n in tensors if ".conv_3.weight_orig" in n})
    pairs = [
        (
            tensors[f"generator.layers.{n}.conv_0.weight_orig"].shape[1],
            len(tensors[f"generator.layers.{n}.conv_3.bias"]),
        )
        for n in numbers
    ]
    return [(i % 2 == 1, a // width, b // width) for i, (a, b) in enumerate(pairs)]


KINDS = {"weight_orig": "weight", "weight_u": "u0", "weight_v": "v0", "running_means": "running_mean",
         "running_vars": "running_var"}  # fmt: skip
LAYERS = {"gen_z": "linear", "conv_to_rgb": "output", "bn": "output_norm"}
ATTENTION = {"theta": "theta", "phi": "phi", "g": "g", "o_conv": "o"}


def _placed(tensors: Mapping[str, Tensor], attention: int, latent: int) -> Iterator[tuple[str, Tensor]]:
    """(our name, our layout) of every published tensor, in their order; unknown ones under their own names.

    There z stands before the class' vector, here behind it; the first layer's rows are (row, column, map), here (map,
    row, column); the table of class vectors is transposed.
    """
    for name, tensor in tensors.items():
        ours, kind = _our_name(name, attention), name.rpartition(".")[2]
        beside = ours == "linear" or ".gain." in f"{ours}." or ".offset." in f"{ours}."
        if beside and kind in ("weight_orig", "weight_v"):
            tensor = torch.cat([tensor[..., latent:], tensor[..., :latent]], -1)
        if ours == "linear" and kind in ("weight_orig", "weight_u", "bias"):
            tensor = tensor.reshape(4, 4, -1, *tensor.shape[1:]).transpose(1, 2).transpose(0, 1).flatten(0, 2)
        if ours == "shared":
            tensor = tensor.T
        if kind == "gamma":
            yield ours, tensor.reshape(())
        elif ours:
            vector = kind in ("weight_u", "weight_v")
            yield f"{ours}.{KINDS.get(kind, kind)}", tensor.unsqueeze(0) if vector else tensor
        else:
            yield name, tensor


def _our_name(name: str, attention: int) -> str:
    """Our layer of a published tensor; of gamma, the name itself; "" for an unknown one."""
    if name == "embeddings.weight":
        return "shared"
    if match := re.match(r"^generator\.(gen_z|conv_to_rgb|bn)\.\w+$", name):
        return LAYERS[match[1]]
    if match := re.match(r"^generator\.layers\.(\d+)\.(.*)$", name):
        number, rest = int(match[1]), match[2]
        if rest == "gamma":
            return f"blocks.{number - 1}.1.gamma"
        if found := re.match(r"^snconv1x1_(theta|phi|g|o_conv)\.\w+$", rest):
            return f"blocks.{number - 1}.1.{ATTENTION[found[1]]}"
        block = f"blocks.{number - (number > attention)}.0"
        if found := re.match(r"^conv_(\d)\.\w+$", rest):
            return f"{block}.conv{int(found[1]) + 1}"
        if found := re.match(r"^bn_(\d)\.(scale|offset)\.\w+$", rest):
            return f"{block}.bn{int(found[1]) + 1}.{'gain' if found[2] == 'scale' else 'offset'}.linear"
        if found := re.match(r"^bn_(\d)\.running_\w+$", rest):
            return f"{block}.bn{int(found[1]) + 1}.norm"
    return ""
