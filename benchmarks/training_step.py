"""Images per second of the engine against a plain hand-written loop, on the same DCGAN networks, batch and precision.

    python benchmarks/training_step.py [--rounds 12] [--repeats 7] [--threads 1] [--json FILE]

The hand-written loop is in the style of the PyTorch DCGAN example: torch's own layers, `zero_grad`, three `backward()`
calls, two Adam steps, one generator pass a round. Variants run interleaved (A B C ... A B C ...), so that a machine
whose speed drifts drifts for all of them; what is printed are medians over the repeats, and the median of the ratios
taken repeat by repeat.
"""

from __future__ import annotations

import argparse
import itertools
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

import saddlepoint as sp
from saddlepoint.engine import Training
from saddlepoint.systems import build


# ---- the baseline: plain PyTorch
def plain_generator(latent: int, width: int, levels: int, channels: int) -> nn.Module:
    widths = [width * 2**i for i in reversed(range(levels))]
    layers: list[nn.Module] = [
        nn.Linear(latent, widths[0] * 16, bias=False),
        nn.BatchNorm1d(widths[0] * 16),
        nn.ReLU(),
        nn.Unflatten(1, (widths[0], 4, 4)),
    ]
    for a, b in itertools.pairwise(widths):
        up = nn.ConvTranspose2d(a, b, 5, stride=2, padding=2, output_padding=1, bias=False)
        layers += [up, nn.BatchNorm2d(b), nn.ReLU()]
    last = nn.ConvTranspose2d(widths[-1], channels, 5, stride=2, padding=2, output_padding=1, bias=False)
    return nn.Sequential(*layers, last, nn.Tanh())


def plain_discriminator(width: int, levels: int, channels: int) -> nn.Module:
    widths = [width * 2**i for i in range(levels)]
    layers: list[nn.Module] = [nn.Conv2d(channels, widths[0], 5, 2, 2, bias=False), nn.LeakyReLU(0.2)]
    for a, b in itertools.pairwise(widths):
        layers += [nn.Conv2d(a, b, 5, 2, 2, bias=False), nn.BatchNorm2d(b), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(widths[-1] * 16, 1, bias=False))


def plain_loop(
    batches: Callable[[], Tensor], batch: int, latent: int, width: int, levels: int, bf16: bool
) -> Callable[[], None]:
    """One round of the hand-written loop, as a function."""
    G, D = plain_generator(latent, width, levels, 1), plain_discriminator(width, levels, 1)
    if bf16:
        G, D = G.to(memory_format=torch.channels_last), D.to(memory_format=torch.channels_last)
    for p in itertools.chain(G.parameters(), D.parameters()):
        if p.ndim > 1:
            nn.init.normal_(p, 0, 0.02)
    opt_d = torch.optim.Adam(D.parameters(), lr=2e-4, betas=(0.5, 0.999))
    opt_g = torch.optim.Adam(G.parameters(), lr=2e-4, betas=(0.5, 0.999))
    criterion = nn.BCEWithLogitsLoss()
    ones, zeros = torch.ones(batch), torch.zeros(batch)

    def round_of_play() -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            real = batches()
            D.zero_grad()
            criterion(D(real).view(-1), ones).backward()
            fake = G(torch.rand(batch, latent) * 2 - 1)
            criterion(D(fake.detach()).view(-1), zeros).backward()
        opt_d.step()
        G.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            loss = criterion(D(fake).view(-1), ones)
        loss.backward()  # computes the discriminator's gradients too, and throws them away
        opt_g.step()

    return round_of_play


# ---- ours
def engine_loop(images: Tensor, batch: int, resolution: int, **overrides: object) -> Callable[[], None]:
    """One round of the engine, as a function: examples, schedule, guard, average and all."""
    recipe = sp.recipe("dcgan", "tiny", resolution=resolution, channels=1, batch=batch, **overrides)

    def source(cursor: int, total: int, first: int, length: int, resolution: int | None = None) -> dict[str, Tensor]:
        start = (cursor + first) % (len(images) - length)
        return {"image": images[start : start + length]}

    training = Training(build(recipe), recipe, source)
    return lambda: void(training.play())


def void(_: object) -> None:
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=12, help="rounds timed together")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--resolution", type=int, default=32)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    images = torch.rand(2048, 1, args.resolution, args.resolution) * 2 - 1
    start = itertools.count()
    recipe = sp.recipe("dcgan", "tiny")
    levels = args.resolution.bit_length() - 3

    def batches() -> Tensor:
        first = next(start) * args.batch % (len(images) - args.batch)
        return images[first : first + args.batch]

    def plain(bf16: bool) -> Callable[[], None]:
        return plain_loop(batches, args.batch, recipe.latent, recipe.width, levels, bf16)

    def ours(**overrides: object) -> Callable[[], None]:
        return engine_loop(images, args.batch, args.resolution, **overrides)

    fp32 = {"precision": "fp32", "channels_last": False}
    bf16 = {"precision": "bf16", "channels_last": True}
    variants = {
        "plain loop, fp32": plain(False),
        "engine, fp32": ours(**fp32),
        "engine, fp32, no average": ours(**fp32, ema_half_life_kimg=0.0),
        "engine, fp32, simultaneous": ours(**fp32, operator="simultaneous"),
        "plain loop, bf16, NHWC": plain(True),
        "engine, bf16, NHWC (tiny preset)": ours(**bf16),
        "engine, bf16, NHWC, simultaneous": ours(**bf16, operator="simultaneous"),
    }
    for play in variants.values():
        play()
        play()
    times: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(args.repeats):
        for name, play in variants.items():
            began = time.process_time()
            for _ in range(args.rounds):
                play()
            times[name].append((time.process_time() - began) / args.rounds)
    base = times["plain loop, fp32"]
    rows = [
        {
            "variant": name,
            "images_per_cpu_second": round(args.batch / statistics.median(t), 1),
            "ratio_to_plain_fp32": round(statistics.median(b / a for a, b in zip(t, base, strict=True)), 3),
        }
        for name, t in times.items()
    ]
    size = f"{args.resolution}x{args.resolution}"
    print(f"DCGAN tiny, {size}, batch {args.batch}, {args.threads} thread(s), torch {torch.__version__}")
    print(f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}; CPU seconds, medians of {args.repeats}")
    print(f"{'':36}{'images / CPU-s':>16}{'speed vs plain fp32':>22}")
    for row in rows:
        print(f"{row['variant']:36}{row['images_per_cpu_second']:16,.0f}{row['ratio_to_plain_fp32']:22.2f}")
    if args.json:
        args.json.write_text(json.dumps({"rows": rows, "threads": args.threads, "torch": torch.__version__}, indent=2))


if __name__ == "__main__":
    main()
