"""BigGAN's ingredients one by one: all of them, and all of them but one, at equal CPU time.

    python benchmarks/ablation.py [--data fashion-mnist] [--minutes 3] [--seeds 2] [--without NAME ...]
                                  [--results FILE] [--work FOLDER] [--only-show]

Every cell is the `tiny` preset with one ingredient of the paper's list switched off, trained and scored as
`benchmarks/compare.py` does it: one process and thread, the same budget of CPU seconds, 5,000 samples. A finished cell
is stored at once, and a later call makes only what is missing. Truncation and standing statistics concern sampling, not
training; docs/systems/biggan.md shows them on one network.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from compare import filled, table

RESULTS = Path(__file__).parent / "results" / "ablation.json"

WITHOUT = {  # ingredient -> the settings that switch it off
    "nothing": "",  # the whole list, which the others are compared with
    "self-attention": "+attention=[]+d_attention=[]",
    "hinge loss": "+objective=nonsaturating",
    "class-conditional norm": "+class_norm=false",
    "projection discriminator": "+projection=false",
    "classes": "+conditional=false",
    "spectral norm on G": "+spectral_g=false",
    "spectral norm on D": "+spectral_d=false",
    "orthogonal initialisation": "+initial=normal",
    "shared embedding": "+shared=false",
    "hierarchical latents": "+hierarchical=false",
    "half learning rate, two D steps": "+d.lr=5e-4+d.steps=1",
    "orthogonal regularisation": "+orthogonal=0.0",
    "running average": "+ema_half_life_kimg=0.0",
    "large batches (8 instead)": "+batch=8",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", default=["fashion-mnist"])
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--without", nargs="+", default=list(WITHOUT), choices=list(WITHOUT), metavar="NAME")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--work", type=Path, default=Path("runs/ablation"))
    parser.add_argument("--only-show", action="store_true")
    chosen = parser.parse_args()
    chosen.systems, chosen.only_train = [f"biggan:tiny{WITHOUT[name]}" for name in chosen.without], False
    names = {f"biggan:tiny{settings}": f"without {name}" for name, settings in WITHOUT.items()}
    names["biggan:tiny"] = "all ingredients"
    cells = filled(chosen)
    for data in chosen.data:
        print(table(cells, data, chosen.minutes, lambda system: names.get(system, system)))


if __name__ == "__main__":
    main()
