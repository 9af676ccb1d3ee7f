"""Published files become runs: built here in the structure of the published ones, read, sampled, trained on."""

from __future__ import annotations

import dataclasses
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from saddlepoint import api, exporting, pretrained, recipes
from saddlepoint.cli import main
from saddlepoint.errors import UserError
from saddlepoint.game import Game
from saddlepoint.pretrained import nvidia, pickles
from saddlepoint.pretrained.importing import import_run, read
from saddlepoint.recipes.base import Recipe
from saddlepoint.runs import Run
from saddlepoint.systems import build
from tests.pretrained import published_files as files

SMALL = {"resolution": 16, "channels": 1, "latent": 6, "w": 6, "batch": 4}


def recipe(system: str, **more: Any) -> Recipe:
    if system == "progan":
        return recipes.recipe(
            system, "tiny", resolution=16, start=16, channels=1, latent=6, fmap_base=64, fmap_max=8, **more
        )
    if system == "stylegan1":
        sizes = {"fmap_base": 64, "fmap_max": 8, "mapping_width": 6, "mapping_layers": 2, "start": 16}
        return recipes.recipe(system, "tiny", **SMALL, **sizes, **more)
    found = recipes.recipe(system, "tiny-t" if system == "stylegan3" else "tiny", **SMALL, **more)
    nets = {n: dataclasses.replace(getattr(found, n), channel_base=64, channel_max=8) for n in ("g_net", "d_net")}
    layers = {"layers": 6} if system == "stylegan3" else {}
    return dataclasses.replace(found, **nets, **layers, augment=dataclasses.replace(found.augment, operations=""))  # type: ignore[attr-defined]


def made(system: str, seed: int = 0, **more: Any) -> Game:
    """A game whose tensors are all random, those that begin at 0 too."""
    game = build(recipe(system, **more))
    generator = torch.Generator().manual_seed(seed + 1)
    fixed = ("filter", "taps", "lod", "transform", "magnitude")
    with torch.no_grad():
        for name, tensor in (*game.named_parameters(), *game.named_buffers()):
            drawn = name.startswith(("generator.", "discriminator.")) and tensor.is_floating_point()
            if drawn and not any(word in name for word in fixed):
                tensor.add_(0.1 * torch.randn(tensor.shape, generator=generator))
    return game.eval()


def parted(game: Game) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Any]]:
    tensors, config = exporting.official(game)
    g, d = ({k[2:]: v for k, v in tensors.items() if k.startswith(p)} for p in ("G.", "D."))
    return g, d, config


def pickled(tmp_path: Path, live: Game, average: Game, protocol: int = 4) -> Path:
    """Both as NVIDIA's PyTorch code would have written them."""
    (g, d, config), (ema, _, _) = parted(live), parted(average)
    options = {"G": config["G_kwargs"], "D": config["D_kwargs"]}
    path = tmp_path / "network-snapshot-000000.pkl"
    path.write_bytes(files.nvidia_torch({"G": g, "D": d, "G_ema": ema}, options, protocol))
    return path


def same_images(run: Run, game: Game) -> None:
    assert torch.equal(run.sample(3, 5), game.sample(3, 5))


@pytest.mark.parametrize("system", ["stylegan2", "stylegan3", "stylegan1", "progan"])
def test_official_names_and_back(system: str) -> None:
    game = made(system)
    tensors, config = exporting.official(game)
    again = pretrained.load(system, tensors, **config).eval()
    assert torch.equal(again.sample(2, 3), game.sample(2, 3))
    for name in ("generator", "discriminator"):
        ours, theirs = game.get_submodule(name).state_dict(), again.get_submodule(name).state_dict()
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[k], theirs[k]) for k in ours)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_stylegan2_pickle_of_every_protocol(tmp_path: Path, protocol: int) -> None:
    live, average = made("stylegan2"), made("stylegan2", 1)
    told: list[str] = []
    run = import_run(pickled(tmp_path, live, average, protocol), tmp_path / "run", tell=told.append)
    same_images(run, average)
    assert torch.equal(run.game_at(None, averaged=False).sample(2, 1), live.sample(2, 1))
    assert any("not read: training_set_kwargs" in line for line in told) and any("read D:" in line for line in told)
    assert run.recipe.system == "stylegan2" and run.environment["imported"]["account"]


def test_a_conditional_stylegan2(tmp_path: Path) -> None:
    live = made("stylegan2", conditional=True, classes=3)
    run = import_run(pickled(tmp_path, live, live), tmp_path / "run")
    assert torch.equal(run.sample(4, 0, label=2), live.sample(4, 0, label=2))


def test_a_stylegan3_pickle(tmp_path: Path) -> None:
    live, average = made("stylegan3"), made("stylegan3", 1)
    run = import_run(pickled(tmp_path, live, average), tmp_path / "run")
    same_images(run, average)
    assert run.recipe.system == "stylegan3" and run.recipe.blur_sigma == 0  # type: ignore[attr-defined]


# ---- the TensorFlow years
def tf_stylegan2(tensors: dict[str, Tensor], rename: Any) -> dict[str, Tensor]:
    """The PyTorch names of a tiny StyleGAN2 back to TensorFlow's, by hand: names, layouts, the 1 that styles lack."""
    found: dict[str, Tensor] = {}
    for name, t in tensors.items():
        for theirs, value in candidates(name, t, rename):
            found[theirs] = value
    assert len(found) == len(tensors)
    return found


def candidates(name: str, t: Tensor, rename: Any) -> list[tuple[str, Tensor]]:
    layers = {"conv0": "Conv0_up", "conv1": "Conv1", "torgb": "ToRGB", "skip": "Skip", "fromrgb": "FromRGB"}
    if rename == "D":
        *where, kind = name.split(".")
        if name.startswith("b4."):
            layer = {"conv": "4x4/Conv", "fc": "4x4/Dense0", "out": "Output"}[where[1]]
            return [(f"{layer}/{kind}", hwio(t) if t.ndim == 4 else t.t() if t.ndim == 2 else t)]
        side, layer = where[0][1:], {**layers, "conv0": "Conv0", "conv1": "Conv1_down"}[where[1]]
        return [(f"{side}x{side}/{layer}/{kind}", hwio(t) if t.ndim == 4 else t)]
    if name == "mapping.w_avg":
        return [("dlatent_avg", t)]
    if name.startswith("mapping.fc"):
        return [(f"mapping/Dense{name[10]}/{name[12:]}", t.t() if t.ndim == 2 else t)]
    if name == "synthesis.b4.const":
        return [("synthesis/4x4/Const/const", t[None])]
    _, block, layer, kind = name.split(".", 3)
    side = int(block[1:])
    if kind == "noise_const":
        level = side.bit_length() - 1
        number = 0 if side == 4 else 2 * level - (5 if layer == "conv0" else 4)
        return [(f"synthesis/noise{number}", t[None, None])]
    theirs = "Conv" if (side, layer) == (4, "conv1") else layers[layer]
    if kind == "weight" and layer == "conv0":
        t = hwio(t).flip(0, 1)
    elif kind == "weight":
        t = hwio(t)
    elif kind == "affine.weight":
        t = t.t()
    elif kind == "affine.bias":
        t = t - 1
    kind = {"affine.weight": "mod_weight", "affine.bias": "mod_bias"}.get(kind, kind)
    return [(f"synthesis/{side}x{side}/{theirs}/{kind}", t)]


def hwio(t: Tensor) -> Tensor:
    return t.permute(2, 3, 1, 0)


def test_a_stylegan2_pickle_of_tensorflow(tmp_path: Path) -> None:
    game = made("stylegan2")
    g, d, _ = parted(game)
    kwargs = {
        "num_channels": 1, "resolution": 16, "label_size": 0, "latent_size": 6, "dlatent_size": 6, "fmap_base": 32,
        "fmap_max": 8, "mapping_layers": game.recipe.g_map.layers, "mapping_fmaps": 6, "architecture": "skip",  # type: ignore[attr-defined]
    }  # fmt: skip
    kwargs.pop("architecture")  # differs between the players, and is officially left at its default
    path = tmp_path / "stylegan2-tiny.pkl"
    content = files.tensorflow(
        tf_stylegan2(g, "G"), tf_stylegan2(d, "D"), kwargs, place="dnnlib.tflib.network", protocol=3
    )
    path.write_bytes(content)
    found = read(path)
    assert found.system == "stylegan2"
    for name, tensor in exporting.official(game)[0].items():
        assert torch.allclose(found.live[name], tensor, atol=1e-6), name
    run = import_run(path, tmp_path / "run")
    torch.testing.assert_close(run.sample(3, 5), game.sample(3, 5), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("system", "place"), [("stylegan1", "dnnlib.tflib.network"), ("progan", "tfutil")])
def test_pickles_of_tensorflow(tmp_path: Path, system: str, place: str) -> None:
    game = made(system)
    g, d, config = parted(game)
    lod = {"lod": torch.zeros(())}
    path = tmp_path / "karras.pkl"
    path.write_bytes(files.tensorflow({**g, **lod}, {**d, **lod}, {**config, "func_name": "x"}, place=place))
    told: list[str] = []
    run = import_run(path, tmp_path / "run", tell=told.append)
    same_images(run, game)
    assert run.recipe.system == system and any("func_name" in line for line in told)


# ---- rosinality
def rosinality(g: dict[str, Tensor], d: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Official PyTorch names of a 16x16 StyleGAN2 as rosinality's code calls them, by hand."""
    gen: dict[str, Tensor] = {}
    for name, t in g.items():
        if name.startswith("mapping.fc"):
            gen[f"style.{int(name[10]) + 1}.{name[12:]}"] = t
        elif name == "synthesis.b4.const":
            gen["input.input"] = t[None]
        elif name != "mapping.w_avg":
            _, block, layer, kind = name.split(".", 3)
            level = int(block[1:]).bit_length() - 3
            second = layer == "conv1"
            if layer == "torgb":
                stem = "to_rgb1" if level == 0 else f"to_rgbs.{level - 1}"
                named = {"weight": "conv.weight", "bias": "bias"}.get(kind, kind.replace("affine", "conv.modulation"))
                t = t[None] if kind == "weight" else t.view(1, -1, 1, 1) if kind == "bias" else t
                gen[f"{stem}.{named}"] = t
                continue
            stem = "conv1" if level == 0 else f"convs.{2 * (level - 1) + second}"
            if kind == "noise_const":
                gen[f"noises.noise_{0 if level == 0 else 2 * level - 1 + second}"] = t[None, None]
                continue
            named = {"weight": "conv.weight", "bias": "activate.bias", "noise_strength": "noise.weight"}.get(
                kind, kind.replace("affine", "conv.modulation")
            )
            gen[f"{stem}.{named}"] = t[None] if kind == "weight" else t.view(1) if kind == "noise_strength" else t
    gen["convs.0.conv.blur.kernel"] = torch.ones(4, 4)
    kinds = {
        "conv0.weight": "conv1.0.weight", "conv0.bias": "conv1.1.bias", "conv1.weight": "conv2.1.weight",
        "conv1.bias": "conv2.2.bias", "skip.weight": "skip.1.weight",
    }  # fmt: skip
    ends = {
        "conv.weight": "final_conv.0.weight", "conv.bias": "final_conv.1.bias",
        "fc.weight": "final_linear.0.weight", "fc.bias": "final_linear.0.bias",
        "out.weight": "final_linear.1.weight", "out.bias": "final_linear.1.bias",
    }  # fmt: skip
    dis: dict[str, Tensor] = {}
    for name, t in d.items():
        block, rest = name.split(".", 1)
        if block == "b4":
            dis[ends[rest]] = t
        elif rest.startswith("fromrgb"):
            dis[{"fromrgb.weight": "convs.0.0.weight", "fromrgb.bias": "convs.0.1.bias"}[rest]] = t
        else:
            dis[f"convs.{ {'b16': 1, 'b8': 2}[block] }.{kinds[rest]}"] = t
    return gen, dis


@pytest.mark.parametrize("zipped", [True, False])
def test_a_checkpoint_of_rosinality(tmp_path: Path, zipped: bool) -> None:
    import argparse

    game = made("stylegan2")
    g, d, _ = parted(game)
    gen, dis = rosinality(g, d)
    path = tmp_path / "550000.pt"
    found = {"g": gen, "g_ema": gen, "d": dis, "g_optim": {"state": {}}, "args": argparse.Namespace(size=16)}
    torch.save(found, path, _use_new_zipfile_serialization=zipped)
    told: list[str] = []
    run = import_run(path, tmp_path / "run", tell=told.append)
    same_images(run, game)
    assert any("no mean of w" in line for line in told) and any("args" in line for line in told)
    mean = run.game.get_buffer("generator.mapping.average")
    w = game.get_submodule("generator.mapping")(game.draw_latents(4096, 0))[:, 0].mean(0)  # type: ignore[operator]
    torch.testing.assert_close(mean, w.detach())
    torch.save({**found, "latent_avg": torch.full((6,), 0.25)}, path)
    mean = import_run(path, tmp_path / "second").game.get_buffer("generator.mapping.average")
    assert mean.tolist() == [0.25] * 6


# ---- runs that go on
def test_an_imported_run_trains_on_and_resumes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = pickled(tmp_path, made("stylegan2"), made("stylegan2", 1)), tmp_path / "run"
    assert main(["import", str(path), "--out", str(out), "--data", "digits", "--batch", "4"]) == 0
    assert "saddlepoint resume" in capsys.readouterr().out
    before = Run(out).game_at(None, averaged=False).state_dict()
    assert main(["resume", str(out), "--kimg", "0.016", "--quiet", "--device", "cpu"]) == 0
    after = Run(out)
    assert after.clock == 16 and (out / "report.html").exists()
    moved = [k for k, v in after.game_at(None, averaged=False).state_dict().items() if not torch.equal(v, before[k])]
    assert any(k.startswith("discriminator.") for k in moved) and any(k.startswith("generator.") for k in moved)
    assert bool(after.sample(2, 0).isfinite().all())


def test_export_and_import_by_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = pickled(tmp_path, made("stylegan2"), made("stylegan2", 1)), tmp_path / "run"
    import_run(path, out)
    file = tmp_path / "official.safetensors"
    assert main(["export", str(out), "--format", "nvidia", "--out", str(file)]) == 0
    assert main(["import", str(file), "--out", str(tmp_path / "again")]) == 0
    same_images(Run(tmp_path / "again"), Run(out).game)
    assert Run(tmp_path / "again").recipe == Run(out).recipe
    assert main(["export", str(out), "--format", "nvidia", "--out", str(tmp_path / "official.pt")]) == 0
    states = torch.load(tmp_path / "official.pt", weights_only=True)
    assert states.keys() == {"G", "D", "G_ema", "saddlepoint.official"}
    assert "synthesis.b8.conv0.weight" in states["G_ema"]
    assert main(["import", str(tmp_path / "official.pt"), "--out", str(tmp_path / "from-pt")]) == 0
    same_images(Run(tmp_path / "from-pt"), Run(out).game)
    assert Run(tmp_path / "from-pt").recipe == Run(out).recipe
    for account, said in (
        ("{", "does not say what it holds"),
        ('{"system": "x"}', "expected a pickle"),
        ("[" * 9999, ""),
    ):
        torch.save({**states, "saddlepoint.official": account}, tmp_path / "bad.pt")
        with pytest.raises(UserError, match=r"bad\.pt") as told:
            import_run(tmp_path / "bad.pt", tmp_path / "bad")
        assert said in str(told.value) and "\n" not in str(told.value) and not (tmp_path / "bad").exists()
    assert main(["export", str(out), "--out", str(tmp_path / "own.safetensors")]) == 0
    from safetensors.torch import load_file

    assert load_file(tmp_path / "own.safetensors").keys() == Run(out).game.state_dict().keys()
    capsys.readouterr()
    assert main(["export", str(out), "--format", "onnx", "--out", str(tmp_path / "a.onx")]) == 2
    assert "a.onnx" in capsys.readouterr().err


def test_what_does_not_fit_is_named_and_no_run_is_made(tmp_path: Path) -> None:
    g, d, config = parted(made("stylegan2"))
    options = {"G": config["G_kwargs"], "D": config["D_kwargs"]}
    wrong = {**g, "synthesis.b8.conv1.weight": torch.zeros(3, 3, 3, 3), "synthesis.b8.conv1.more": torch.zeros(2)}
    del wrong["mapping.fc0.bias"]
    path = tmp_path / "wrong.pkl"
    path.write_bytes(files.nvidia_torch({"G_ema": wrong, "D": d}, options))
    with pytest.raises(UserError) as told:
        import_run(path, tmp_path / "run")
    for part in ("synthesis.b8.conv1.weight is [3, 3, 3, 3]", "synthesis.b8.conv1.more", "mapping.fc0.bias"):
        assert part in str(told.value)
    assert not (tmp_path / "run").exists()


def test_other_files_are_refused_in_a_line(tmp_path: Path) -> None:
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"a": np.zeros(3)}))
    torch.save({"w": torch.zeros(3)}, tmp_path / "b.pt")
    (tmp_path / "c.safetensors").write_bytes(b"no")
    for name in ("a.pkl", "b.pt", "c.safetensors", "absent.pkl"):
        with pytest.raises(UserError) as told:
            import_run(tmp_path / name, tmp_path / "run")
        assert name in str(told.value) and "\n" not in str(told.value)
    assert not (tmp_path / "run").exists()


def test_json_of_the_recipe_is_whole(tmp_path: Path) -> None:
    run = import_run(pickled(tmp_path, made("stylegan2"), made("stylegan2", 1)), tmp_path / "run", data="digits")
    stored = json.loads((run.path / "recipe.json").read_text())
    assert stored["data"] == "digits" and stored["ema_ramp"] == 0.0
    assert api.load(run.path).recipe == run.recipe


def test_names_of_tensorflow_are_those_of_the_conversion() -> None:
    assert [nvidia.generator_name(f"synthesis/noise{i}")[0] for i in range(4)] == [
        "synthesis.b4.conv1.noise_const", "synthesis.b8.conv0.noise_const", "synthesis.b8.conv1.noise_const",
        "synthesis.b16.conv0.noise_const",
    ]  # fmt: skip
    assert pickles.shown("a\nb") == "a?b"
