"""The Inception network of 2015 against a second, naive implementation, and its files as three projects publish them.

The second one is written from the published graph: its names ("mixed_9.tower_1_mixed_conv"), its batch norm (offset,
mean and variance, no scale) and its resize (a shifted grid). Saved as TorchScript, it is a file of NVIDIA's kind.
"""

from __future__ import annotations

import io
import os
import pickle
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from saddlepoint.errors import UserError
from saddlepoint.metrics import foreign, inception
from saddlepoint.metrics.extractors import features
from saddlepoint.metrics.resize import rounded


class GraphConv(nn.Module):
    """conv2d, then (x - mean) / sqrt(var + 0.001) + beta, then max(x, 0)."""

    def __init__(self, inputs: int, out: int, h: int = 1, w: int = 1, stride: int = 1, pad: int | None = None) -> None:
        super().__init__()
        self.stride, self.pad = stride, (h // 2, w // 2) if pad is None else (pad, pad)
        self.weight = nn.Parameter(torch.randn(out, inputs, h, w) * (2 / (inputs * h * w)) ** 0.5)
        self.beta = nn.Parameter(torch.randn(out) * 0.1)
        self.register_buffer("mean", torch.randn(out) * 0.1)
        self.register_buffer("var", torch.rand(out) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.conv2d(x, self.weight, stride=self.stride, padding=self.pad)
        x = (x - self.mean.view(1, -1, 1, 1)) / torch.sqrt(self.var.view(1, -1, 1, 1) + 0.001)
        return torch.clamp_min(x + self.beta.view(1, -1, 1, 1), 0)


def mean_pool(x: Tensor) -> Tensor:
    """3x3 sums divided by how many pixels were inside."""
    return F.avg_pool2d(x, 3, 1, 1, divisor_override=1) / F.avg_pool2d(torch.ones_like(x), 3, 1, 1, divisor_override=1)


def chain(*convs: tuple[int, ...]) -> nn.Sequential:
    tower = nn.Sequential()
    for index, conv in enumerate(convs):
        tower.add_module("conv" if index == 0 else f"conv_{index}", GraphConv(*conv))
    return tower


class GraphA(nn.Module):
    def __init__(self, n: int, pooled: int) -> None:
        super().__init__()
        self.conv = GraphConv(n, 64)
        self.tower = chain((n, 48), (48, 64, 5, 5))
        self.tower_1 = chain((n, 64), (64, 96, 3, 3), (96, 96, 3, 3))
        self.tower_2 = chain((n, pooled))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.conv(x), self.tower(x), self.tower_1(x), self.tower_2(mean_pool(x))], 1)


class GraphB(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = GraphConv(288, 384, 3, 3, 2, 0)
        self.tower = chain((288, 64), (64, 96, 3, 3), (96, 96, 3, 3, 2, 0))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.conv(x), self.tower(x), F.max_pool2d(x, 3, 2)], 1)


class GraphC(nn.Module):
    def __init__(self, c: int) -> None:
        super().__init__()
        self.conv = GraphConv(768, 192)
        self.tower = chain((768, c), (c, c, 1, 7), (c, 192, 7, 1))
        self.tower_1 = chain((768, c), (c, c, 7, 1), (c, c, 1, 7), (c, c, 7, 1), (c, 192, 1, 7))
        self.tower_2 = chain((768, 192))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.conv(x), self.tower(x), self.tower_1(x), self.tower_2(mean_pool(x))], 1)


class GraphD(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tower = chain((768, 192), (192, 320, 3, 3, 2, 0))
        self.tower_1 = chain((768, 192), (192, 192, 1, 7), (192, 192, 7, 1), (192, 192, 3, 3, 2, 0))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.tower(x), self.tower_1(x), F.max_pool2d(x, 3, 2)], 1)


class GraphE(nn.Module):
    def __init__(self, n: int, mean: bool) -> None:
        super().__init__()
        self.mean = mean
        self.conv = GraphConv(n, 320)
        self.tower_conv = GraphConv(n, 384)
        self.tower_mixed_conv = GraphConv(384, 384, 1, 3)
        self.tower_mixed_conv_1 = GraphConv(384, 384, 3, 1)
        self.tower_1_conv = GraphConv(n, 448)
        self.tower_1_conv_1 = GraphConv(448, 384, 3, 3)
        self.tower_1_mixed_conv = GraphConv(384, 384, 1, 3)
        self.tower_1_mixed_conv_1 = GraphConv(384, 384, 3, 1)
        self.tower_2_conv = GraphConv(n, 192)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.tower_conv(x), self.tower_1_conv_1(self.tower_1_conv(x))
        pooled = mean_pool(x) if self.mean else F.max_pool2d(x, 3, 1, 1)
        parts = [self.conv(x), self.tower_mixed_conv(a), self.tower_mixed_conv_1(a)]
        return torch.cat(
            [*parts, self.tower_1_mixed_conv(b), self.tower_1_mixed_conv_1(b), self.tower_2_conv(pooled)], 1
        )


class GraphNet(nn.Module):
    """Pixels 0..255 [N, 3, H, W] -> features [N, 2048]; `output` holds the logits' weights."""

    def __init__(self) -> None:
        super().__init__()
        layers: dict[str, nn.Module] = {
            "conv": GraphConv(3, 32, 3, 3, 2, 0), "conv_1": GraphConv(32, 32, 3, 3, 1, 0),
            "conv_2": GraphConv(32, 64, 3, 3), "pool0": nn.MaxPool2d(3, 2),
            "conv_3": GraphConv(64, 80), "conv_4": GraphConv(80, 192, 3, 3, 1, 0), "pool1": nn.MaxPool2d(3, 2),
            "mixed": GraphA(192, 32), "mixed_1": GraphA(256, 64), "mixed_2": GraphA(288, 64), "mixed_3": GraphB(),
            "mixed_4": GraphC(128), "mixed_5": GraphC(160), "mixed_6": GraphC(160), "mixed_7": GraphC(192),
            "mixed_8": GraphD(), "mixed_9": GraphE(1280, True), "mixed_10": GraphE(2048, False),
            "pool2": nn.AvgPool2d(8),
        }  # fmt: skip
        self.layers = nn.Sequential()
        for name, layer in layers.items():
            self.layers.add_module(name, layer)
        self.output = nn.Linear(2048, 1008)

    def forward(self, pixels: Tensor) -> Tensor:
        theta = torch.eye(2, 3)
        theta[0, 2] = 1 / pixels.shape[3] - 1 / 299
        theta[1, 2] = 1 / pixels.shape[2] - 1 / 299
        grid = F.affine_grid(theta.expand(len(pixels), 2, 3), [len(pixels), 3, 299, 299], align_corners=False)
        x = F.grid_sample(pixels, grid, "bilinear", "border", align_corners=False)
        return self.layers((x - 128) / 128).flatten(1)


@pytest.fixture(scope="module")
def naive() -> GraphNet:
    torch.manual_seed(0)
    return GraphNet().eval().requires_grad_(False)


@pytest.fixture(scope="module")
def scripted(naive: GraphNet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The naive network as a TorchScript archive."""
    path = tmp_path_factory.mktemp("weights") / "inception-2015-12-05.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch has newer formats; the published file is of this one
        torch.jit.trace(naive, torch.zeros(1, 3, 32, 32), check_trace=False).save(str(path))
    return path


@pytest.fixture(scope="module")
def network(scripted: Path) -> inception.Inception2015:
    return inception.load(scripted)[0]


def relative(a: Tensor, b: Tensor) -> float:
    return ((a - b).abs().max() / b.abs().max()).item()


@pytest.fixture(scope="module")
def pixels() -> Tensor:
    return torch.randint(0, 256, (1, 3, 32, 40), generator=torch.Generator().manual_seed(1)).float()


def test_agrees_with_the_naive_network_at_every_stage(
    naive: GraphNet, network: inception.Inception2015, pixels: Tensor
) -> None:
    x = inception.prepared(pixels, "tf")
    ours = network.stages(x)
    y = x
    for (name, graph, _), layer in zip(inception.PLAN, naive.layers, strict=False):
        y = layer(y)
        assert ours[name].shape == y.shape, graph
        assert relative(ours[name], y) < 2e-5, graph
    assert relative(ours["features"], naive.layers[-1](y).flatten(1)) < 2e-5
    assert relative(network(x), naive(pixels)) < 1e-4  # with the grid's own resize
    assert torch.equal(network(x), ours["features"])


def test_shapes_of_the_published_network(network: inception.Inception2015, pixels: Tensor) -> None:
    found = network.stages(inception.prepared(pixels))
    shapes = {name: tuple(x.shape[1:]) for name, x in found.items()}
    assert shapes["Conv2d_2a_3x3"] == (32, 147, 147) and shapes["pool_1"] == (64, 73, 73)
    assert shapes["pool_2"] == (192, 35, 35) and shapes["Mixed_5b"] == (256, 35, 35)
    assert shapes["Mixed_5d"] == (288, 35, 35) and shapes["Mixed_6e"] == (768, 17, 17)
    assert shapes["Mixed_7a"] == (1280, 8, 8) and shapes["Mixed_7c"] == (2048, 8, 8)
    assert shapes["features"] == (2048,)
    # torchvision's 23,834,568 without the auxiliary head has 1000 classes; each class costs 2048 + 1.
    assert sum(p.numel() for p in network.parameters()) == 23_834_568 + 8 * 2049
    assert len([m for m in network.modules() if isinstance(m, nn.Conv2d)]) == 94


def test_logits_leave_the_bias_out_unless_asked(naive: GraphNet, network: inception.Inception2015) -> None:
    f = torch.rand(2, 2048)
    torch.testing.assert_close(network.logits(f), f @ naive.output.weight.T)
    torch.testing.assert_close(network.logits(f, bias=True), naive.output(f))


def test_the_files_of_three_projects_are_one_network(
    scripted: Path, network: inception.Inception2015, tmp_path: Path
) -> None:
    state = dict(network.state_dict())  # torchvision's names, with the counters that torch-fidelity's file lacks
    torch.save(state, tmp_path / "state.pth")
    theirs, ours = inception.read_state(scripted), inception.read_state(tmp_path / "state.pth")
    assert foreign.fingerprint(theirs) == foreign.fingerprint(ours)
    scales = [tensor for name, tensor in theirs.items() if name.endswith("bn.weight")]
    assert len(scales) == 94 and all((scale == 1).all() for scale in scales)


def test_three_preparations(pixels: Tensor) -> None:
    flat = torch.full((1, 3, 8, 8), 255.0)
    assert inception.prepared(flat, "tf").unique().tolist() == [127 / 128]
    assert inception.prepared(flat, "clean").unique().tolist() == pytest.approx([127 / 128])
    assert inception.prepared(flat, "pytorch").mean().item() == pytest.approx(1.0)
    made = {kind: inception.prepared(pixels, kind) for kind in inception.PREPARATIONS}
    assert all(x.shape == (1, 3, 299, 299) for x in made.values())
    assert (made["tf"] - made["pytorch"]).abs().max() > 0.1 and (made["tf"] - made["clean"]).abs().max() > 0.1
    with pytest.raises(UserError, match="tf"):
        inception.prepared(pixels, "tff")


def test_as_an_extractor(scripted: Path, naive: GraphNet) -> None:
    extractor = features("inception-2015", scripted)
    images = torch.rand(2, 1, 28, 28, generator=torch.Generator().manual_seed(2)) * 2.2 - 1.1  # grey, some out of range
    assert (extractor.dimensions, extractor.classes, extractor.resize) == (2048, 1008, "tf")
    assert extractor.identity.startswith("inception-2015@sha256:") and extractor.source["file"] == scripted.name
    found, logits = extractor.both(images)
    expected = naive(rounded(images).expand(-1, 3, -1, -1))
    assert relative(found, expected) < 1e-4
    torch.testing.assert_close(logits, found @ naive.output.weight.T)
    clean = features("inception-2015", scripted, resize="clean")
    assert clean.provenance() != extractor.provenance() and clean.identity == extractor.identity
    assert relative(clean(images), found) > 1e-3


def test_a_missing_file_names_the_files_and_a_way_without() -> None:
    with pytest.raises(UserError) as told:
        features("inception-2015")
    for part in ("pt_inception-2015-12-05-6726825d.pth", "inception-2015-12-05.pt", "6726825d", "efficientnet-lite0"):
        assert part in str(told.value)
    with pytest.raises(UserError, match="nowhere"):
        features("inception-2015", "nowhere.pth")


def test_other_networks_and_damaged_files_are_refused(network: inception.Inception2015, tmp_path: Path) -> None:
    state = {name: tensor for name, tensor in network.state_dict().items() if "Mixed_7c" not in name}
    torch.save(state, tmp_path / "short.pth")
    with pytest.raises(UserError, match=r"missing .*Mixed_7c"):
        inception.load(tmp_path / "short.pth")
    torch.save({"fc.weight": torch.zeros(1000, 2048)}, tmp_path / "torchvision.pth")
    with pytest.raises(UserError, match="1008"):
        inception.load(tmp_path / "torchvision.pth")
    torch.save({"x": torch.zeros(3)}, tmp_path / "pt_inception-2015-12-05-6726825d.pth")
    with pytest.raises(UserError, match="6726825d"):
        inception.load(tmp_path / "pt_inception-2015-12-05-6726825d.pth")


# ---- nothing of a file is run
class Bomb:
    """Unpickled, it makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (self.folder,)


def archive(path: Path, files: Mapping[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as made:
        for name, data in files.items():
            made.writestr(f"net/{name}", data)
    return path


def test_a_pickle_that_runs_something_is_refused_and_nothing_runs(tmp_path: Path) -> None:
    folder = tmp_path / "made"
    torch.save({"w": torch.zeros(2), "b": Bomb(folder)}, tmp_path / "bomb.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(Bomb(folder)))
    script = archive(
        tmp_path / "bomb.pt", {"data.pkl": pickle.dumps(Bomb(folder)), "constants.pkl": b"", "version": b"3"}
    )
    for path in (tmp_path / "bomb.pth", tmp_path / "plain.pth", script):
        with pytest.raises(UserError):
            foreign.read(path)
    assert not folder.exists()
    pickle.loads(pickle.dumps(Bomb(folder)))  # the bomb is one
    assert folder.exists()


class Storage:
    """Pickled by its persistent id."""


def script_with(size: tuple[int, ...], stride: tuple[int, ...], offset: int, numbers: int) -> dict[str, bytes]:
    """data.pkl with one tensor of these measures over a storage of so many float32."""
    stream = io.BytesIO()

    class Pickler(pickle.Pickler):
        def persistent_id(self, thing: object) -> object:
            return ("storage", torch.FloatStorage, "0", "cpu", numbers) if isinstance(thing, Storage) else None

    class Tensorish:
        def __reduce__(self) -> tuple[object, tuple[object, ...]]:
            return torch._utils._rebuild_tensor_v2, (Storage(), offset, size, stride, False, {})

    Pickler(stream, 2).dump({"w": Tensorish()})
    data = torch.arange(float(numbers)).numpy().tobytes()
    return {"data.pkl": stream.getvalue(), "constants.pkl": b"", "data/0": data}


def test_views_of_a_storage(tmp_path: Path) -> None:
    whole = foreign.read(archive(tmp_path / "a.pt", script_with((2, 3), (1, 2), 1, 8)))
    assert whole["w"].tolist() == [[1, 3, 5], [2, 4, 6]]
    for case in ((4, 2), (2, 1), 1, 8), ((1,), (1,), -1, 8), ((2,), (-1,), 3, 8), ((0, 9), (9, 1), 9, 8):
        with pytest.raises(UserError, match="beyond its storage"):
            foreign.read(archive(tmp_path / "b.pt", script_with(*case)))


def test_other_files_are_told(tmp_path: Path) -> None:
    (tmp_path / "text.pth").write_text("not weights")
    torch.save({"epoch": 3}, tmp_path / "empty.pth")
    for name, told in (("text.pth", "cannot be read"), ("empty.pth", "no tensors")):
        with pytest.raises(UserError, match=told):
            foreign.read(tmp_path / name)
    with pytest.raises(FileNotFoundError, match="absent"):
        foreign.read(tmp_path / "absent.pth")
    damaged = archive(tmp_path / "cut.pt", {"data.pkl": b"\x80\x02}", "constants.pkl": b""})
    with pytest.raises(UserError, match="not a readable TorchScript"):
        foreign.read(damaged)


def test_fingerprints_see_names_shapes_types_and_values() -> None:
    base = {"a": torch.zeros(2, 3), "b": torch.ones(2)}
    others = (
        {"a": torch.zeros(3, 2), "b": torch.ones(2)},
        {"c": torch.zeros(2, 3), "b": torch.ones(2)},
        {"a": torch.zeros(2, 3).half(), "b": torch.ones(2)},
        {"a": torch.zeros(2, 3), "b": torch.tensor([1.0, 1.0000001])},
    )
    assert len({foreign.fingerprint(each) for each in (base, *others)}) == 5
    assert foreign.fingerprint(dict(reversed(base.items()))) == foreign.fingerprint(base)
