"""Memory and speed of training data on a set several times larger than the page cache that is allowed.

    python benchmarks/streaming.py [--megabytes 1200] [--allow 128] [--seconds 60] [--work FOLDER] [--json FILE]

Three forms of the same images (noise, which no format compresses): tar shards read where they lie, a zip of them
converted to one memory-mapped file, and, for comparison, that file read into memory. Each is read in the shuffled
order of training, in a process of its own, and asked for its memory: private bytes (RssAnon, which are really its own)
and their peak; and how much of the files lies in the page cache (mincore), of which at most --allow megabytes are
allowed: beyond that the kernel is told to drop them (posix_fadvise), so that reading cannot live off a cache as large
as the set.
--limit additionally forbids the process more private memory than that (RLIMIT_DATA): what is not constant fails.
Linux only. The files are removed at the end.
"""

from __future__ import annotations

import argparse
import ctypes
import io
import json
import mmap
import os
import platform
import resource
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

SIDE, BATCH, PAGE = 128, 32, os.sysconf("SC_PAGE_SIZE")
MB = 1_000_000


def write(folder: Path, megabytes: int, zipped: Path, per_shard: int = 1000) -> int:
    """Noise as .png and .cls in shards, and the same images in a zip; returns how many there are."""
    from PIL import Image

    rng, count, written, tar = np.random.default_rng(0), 0, 0, None
    archive = zipfile.ZipFile(zipped, "w")
    while written < megabytes * MB:
        if count % per_shard == 0:
            if tar is not None:
                tar.close()
            tar = tarfile.open(folder / f"train-{count // per_shard:03d}.tar", "w")  # noqa: SIM115 - closed below
        image = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, 3), np.uint8)).save(image, "PNG", compress_level=0)
        archive.writestr(f"{count // 1000:05d}/img{count:08d}.png", image.getvalue())
        for suffix, content in (("png", image.getvalue()), ("cls", b"%d" % (count % 10))):
            info = tarfile.TarInfo(f"{count:08d}.{suffix}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
            written += len(content)
        count += 1
    archive.close()
    if tar is not None:
        tar.close()
    return count


def cached(files: list[Path]) -> int:
    """Bytes of these files that are in the page cache."""
    libc, total = ctypes.CDLL(None, use_errno=True), 0
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t] + [ctypes.c_int] * 3 + [ctypes.c_long]
    libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    libc.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p]
    for file in files:
        size = file.stat().st_size
        with file.open("rb") as opened:
            place = libc.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, opened.fileno(), 0)
            pages = (ctypes.c_ubyte * (-(-size // PAGE)))()
            if libc.mincore(place, size, pages) == 0:
                total += int((np.frombuffer(pages, np.uint8) & 1).sum()) * PAGE
            libc.munmap(place, size)
    return total


def drop(files: list[Path]) -> None:
    for file in files:
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def status(name: str) -> int:
    """A line of /proc/self/status in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) * 1024
    return 0


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """One form of the set in this process."""
    import torch

    from saddlepoint.data import ImageSet, Stream, open_set

    torch.set_num_threads(1)
    began, start = time.perf_counter(), status("RssAnon")
    found = open_set(args.measure)
    if args.form == "in memory":
        found = ImageSet(np.array(found.images), found.labels, None, None, found.names, found.facts, [])
    opened, files = time.perf_counter() - began, args.files
    drop(files)
    if args.limit:
        limit = status("VmData") + args.limit * MB
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    stream, peak, most_cached, taken, since = Stream(found, seed=0, mirror=True), 0, 0, 0, 0
    began = busy = time.perf_counter()
    spent = 0.0
    while spent < args.seconds:
        busy = time.perf_counter()
        stream(taken, BATCH, 0, BATCH)
        spent += time.perf_counter() - busy
        taken, since = taken + BATCH, since + BATCH * SIDE * SIDE * 3
        peak = max(peak, status("RssAnon"))
        if since > args.allow * MB // 8:  # reading is looked after, not timed
            in_cache, since = cached(files), 0
            most_cached = max(most_cached, in_cache)
            if in_cache > args.allow * MB:
                if isinstance(found.images, np.memmap):  # what is mapped must be let go before it can be dropped
                    found.images._mmap.madvise(mmap.MADV_DONTNEED)
                drop(files)
    return {
        "form": args.form,
        "images": len(found),
        "bytes_on_disk_mb": round(sum(f.stat().st_size for f in files) / MB, 1),
        "opened_in_seconds": round(opened, 2),
        "images_read": taken,
        "images_per_second": round(taken / spent, 1),
        "private_mb_before_opening": round(start / MB, 1),
        "peak_private_mb": round(peak / MB, 1),
        "added_private_mb": round((peak - start) / MB, 1),
        "most_in_page_cache_mb": round(most_cached / MB, 1),
        "mapped_files_mb": round(status("RssFile") / MB, 1),
    }


def child(form: str, spec: Path, files: list[Path], args: argparse.Namespace, environment: dict[str, str]) -> Any:
    words = ["--measure", str(spec), "--form", form, "--seconds", str(args.seconds), "--allow", str(args.allow)]
    if form != "in memory" and args.limit:
        words += ["--limit", str(args.limit)]
    command = [sys.executable, __file__, *words, "--files", *map(str, files)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{form}: {done.stderr[-2000:]}")
    return json.loads(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=1200, help="size of the shards")
    parser.add_argument("--allow", type=int, default=128, help="megabytes of them allowed in the page cache")
    parser.add_argument("--limit", type=int, default=200, help="megabytes of private memory allowed; 0 for no limit")
    parser.add_argument("--seconds", type=float, default=60, help="of reading, for each form")
    parser.add_argument("--forms", nargs="+", default=["shards", "memory-mapped", "in memory"])
    parser.add_argument("--work", type=Path)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--form", help=argparse.SUPPRESS)
    parser.add_argument("--files", type=Path, nargs="*", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(args)))
        return
    if args.work:
        Path(args.work).mkdir(parents=True, exist_ok=True)
    root = Path(tempfile.mkdtemp(prefix="streaming-", dir=args.work))
    try:
        shards = root / "shards"
        shards.mkdir()
        count = write(shards, args.megabytes, root / "set.zip")
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "SADDLEPOINT_CACHE": str(root / "cache")}
        rows = []
        for form in args.forms:
            spec, files = shards, sorted(shards.glob("*.tar"))
            if form != "shards":
                spec = root / "set.zip"
                convert = f"from saddlepoint.data import open_set; open_set({str(spec)!r})"
                subprocess.run([sys.executable, "-c", convert], env=environment, check=True)
                files = sorted((root / "cache" / "sets").glob("*/images.u8"))
            drop(files)
            rows.append(child(form, spec, files, args, environment))
            print(json.dumps(rows[-1], indent=2), flush=True)
    finally:
        shutil.rmtree(root, ignore_errors=True)
    result = {
        "command": f"python benchmarks/streaming.py --megabytes {args.megabytes} --allow {args.allow} "
        f"--limit {args.limit} --seconds {args.seconds:g}",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "set": f"{count:,} images of {SIDE} x {SIDE} noise, RGB, uncompressed PNG",
        "allowed_in_page_cache_mb": args.allow,
        "rows": rows,
    }
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
