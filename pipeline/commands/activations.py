"""Look at stores of activations, check them, capture a share of them on this machine, or make one of your own tensors."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from sae.config import Failure, InputError

if TYPE_CHECKING:
    from sae.activations.store import Store

STORES = Path("data/activations")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the subcommands and their options."""
    parsers = parser.add_subparsers(metavar="info | verify | capture | import", required=True, dest="what")
    for name, about in (("info", "what the stores hold"), ("verify", "read every shard and compare its checksum")):
        one = parsers.add_parser(name, help=about, description=about, allow_abbrev=False)
        one.add_argument("directory", nargs="?", type=Path, help="a store, or a folder of stores (default: this project's)")
    capture = parsers.add_parser(
        "capture",
        help="capture a share of the activations, for a run elsewhere to put together",
        description="Capture a share of the parts of this project's activations and leave them in a folder. A run of the stage "
        "that finds all parts there makes the stores of them, byte for byte those of one machine.",
        allow_abbrev=False,
    )
    capture.add_argument("--share", default="1/1", metavar="I/N", help="the I-th of N shares (default: all that nobody is at)")
    capture.add_argument("--push", metavar="REMOTE", help="then copy the parts to this DVC remote")
    capture.add_argument("--pull", metavar="REMOTE", help="first fetch the parts that others have pushed to this DVC remote")
    own = parsers.add_parser(
        "import", help="make a store of your own tensors", description="Make a store of your own tensors.", allow_abbrev=False
    )
    own.add_argument("directory", type=Path, help="of the new store")
    own.add_argument("rows", nargs="+", metavar="NAME=FILE[,FILE…]", help="a hook point's rows: .npy, .safetensors or .parquet")
    own.add_argument("--dtype", default="float16", help="float32, float16 (default), bfloat16, int8 or float8")
    own.add_argument("--format", default="safetensors", help="safetensors (default) or parquet")
    own.add_argument("--shard-mb", type=int, default=64, help="about how large a shard is, in megabytes (default: 64)")
    own.add_argument("--seed", type=int, default=0, help="of the shuffle (default: 0)")


def run(args: argparse.Namespace) -> int:
    """Run the subcommand."""
    return {"info": info, "verify": verify, "capture": capture, "import": import_rows}[args.what](args)


def info(args: argparse.Namespace) -> int:
    """Print what the stores hold, and whether their files are there."""
    for store in _stores(args.directory):
        print("\n".join(describe(store)))
    return 0


def verify(args: argparse.Namespace) -> int:
    """Compare checksums.

    Raises:
        Failure: naming the damaged shards.
    """
    damaged = []
    for store in _stores(args.directory):
        bad = store.damaged_shards()
        damaged += [str(store.directory / file) for file in bad]
        print(f"{store.directory}: {len(store.manifest.shards) - len(bad)} of {len(store.manifest.shards)} shards are whole")
    if damaged:
        raise Failure("these shards are damaged: remove data/activations and run the stage again", found=", ".join(damaged))
    return 0


def capture(args: argparse.Namespace) -> int:
    """Capture a share of the parts."""
    from pipeline.project import find_root
    from pipeline.sharing import capture_share

    capture_share(find_root(Path.cwd()), _share(args.share), push=args.push, pull=args.pull)
    return 0


def import_rows(args: argparse.Namespace) -> int:
    """Make a store of files."""
    from pipeline.progress import Progress
    from sae.activations.encoding import TORCH
    from sae.activations.own import store_tensors

    for option, value, known in (("--dtype", args.dtype, list(TORCH)), ("--format", args.format, ["safetensors", "parquet"])):
        if value not in known:
            raise InputError("no such choice", where=option, found=value, expected=", ".join(known))
    given = {}
    for text in args.rows:
        name, equals, files = text.partition("=")
        if not (name and equals and files):
            raise InputError("rows are given as NAME=FILE", where="pipeline activations import", found=text)
        given[name] = [Path(file) for file in files.split(",")]
    with Progress("import", 0, "rows") as progress:
        manifest = store_tensors(
            given,
            args.directory,
            dtype=args.dtype,
            format=args.format,
            shard_mb=args.shard_mb,
            seed=args.seed,
            progress=progress,
        )
    print(f"{manifest.rows:,} rows → {args.directory}; train on it with sae.activations.loader.StoreSource")
    return 0


def describe(store: Store) -> list[str]:
    """What a store holds, in lines for a person. Opening it has found every shard there, of its right size."""
    manifest = store.manifest
    order = f"shuffled (seed {manifest.shuffle_seed})" if manifest.context is None else f"in sequences of {manifest.context}"
    left_out = f", {manifest.left_out:,} outliers left out" if manifest.left_out else ""
    size = sum(shard.bytes for shard in manifest.shards) / 1e6
    lines = [
        f"{store.directory}: {manifest.split}, {manifest.rows:,} rows {order}{left_out}",
        f"  {len(manifest.shards):,} shards, all there; {size:,.1f} MB of {manifest.dtype} in {manifest.format}",
    ]
    for name, width in manifest.hook_points.items():
        norms, mean, median = manifest.norms[name], store.mean(name).norm(), store.geometric_median(name).norm()
        lines.append(
            f"  {name} [{width}]: norm mean {norms.mean:.4g}, rms {norms.rms:.4g}, max {norms.max:.4g}; "
            f"norm of the mean {float(mean):.4g}, of the geometric median {float(median):.4g}"
        )
    return lines + [f"  from {name} {digest[:16]}" for name, digest in manifest.inputs.items()]


def _stores(directory: Path | None) -> list[Store]:
    from pipeline.project import find_root
    from sae.activations.store import MANIFEST, Store

    where = find_root(Path.cwd()) / STORES if directory is None else directory
    if (where / MANIFEST).exists():
        return [Store(where)]
    found = sorted(path.parent for path in where.glob(f"*/{MANIFEST}"))
    if not found:
        raise InputError("there is no store here", where=str(where), expected="a finished activations stage, or a store's folder")
    return [Store(path) for path in found]


def _share(text: str) -> tuple[int, int]:
    index, slash, count = text.partition("/")
    if not (slash and index.isdigit() and count.isdigit() and 1 <= int(index) <= int(count)):
        raise InputError("a share is I/N with I from 1 to N", where="--share", found=text, expected="such as 2/4")
    return int(index) - 1, int(count)
