"""How fast pictures are read: `python -m canvit_gym.bench.scenes`.

The same photographs lie in class folders, in tar shards and in Hugging Face's tables. Each is read
by a DataLoader with worker processes, in turns with torchvision's ImageFolder on the class folders,
which scales and crops as we do. Files are warm: what is measured is decoding, and what a layout
adds to it.
"""

from __future__ import annotations

import argparse
import io
import tarfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch.utils.data import DataLoader

from canvit_gym.bench.env import write_pictures
from canvit_gym.bench.machine import add_arguments, described, machine, write
from canvit_gym.scenes.base import Scene
from canvit_gym.scenes.folder import FolderScenes
from canvit_gym.scenes.table import TableScenes
from canvit_gym.scenes.tar import TarScenes

REFERENCE = "torchvision ImageFolder"
LAYOUTS = ("class folders", "tar shards", "Parquet", "Arrow")

_BATCH = 32
_ROWS_A_GROUP = 100  # as Hugging Face writes pictures


def write_layouts(root: Path) -> Path:
    """The photographs in each layout, in a folder of its own; returns that of the class folders."""
    import pyarrow as pa
    from pyarrow import parquet

    folder = root / "class folders"
    write_pictures(folder)
    files = sorted(folder.rglob("*.JPEG"))
    for name in LAYOUTS[1:]:
        (root / name).mkdir()
    with tarfile.open(root / "tar shards" / "shard-000000.tar", "w") as archive:
        for number, path in enumerate(files):
            members = {
                f"{number:06}.jpg": path.read_bytes(),
                f"{number:06}.json": b'{"label": %d}' % number,
            }
            for name, data in members.items():
                member = tarfile.TarInfo(name)
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    pictures = [{"bytes": path.read_bytes(), "path": path.name} for path in files]
    table = pa.table({"image": pictures, "label": list(range(len(files)))})
    parquet.write_table(table, root / "Parquet" / "data.parquet", row_group_size=_ROWS_A_GROUP)
    arrow = str(root / "Arrow" / "data.arrow")
    with pa.OSFile(arrow, "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=_ROWS_A_GROUP)
    return folder


def sources(root: Path, *, size_px: int) -> dict[str, Any]:
    """Data sets by name: torchvision's and each of ours."""
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import v2

    steps = [v2.Resize(size_px, antialias=True), v2.CenterCrop(size_px), v2.PILToTensor()]
    kinds: tuple[Callable[..., Any], ...] = (FolderScenes, TarScenes, TableScenes, TableScenes)
    ours = {
        name: kind(root / name, size_px=size_px) for name, kind in zip(LAYOUTS, kinds, strict=True)
    }
    return {REFERENCE: ImageFolder(str(root / LAYOUTS[0]), transform=v2.Compose(steps)), **ours}


def _stack(batch: list[Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures and labels of a batch, of scenes or of torchvision's pairs."""
    if isinstance(batch[0], Scene):
        pictures = [torch.from_numpy(scene.picture) for scene in batch]
        return torch.stack(pictures), torch.tensor([scene.label for scene in batch])
    return torch.stack([pair[0] for pair in batch]), torch.tensor([pair[1] for pair in batch])


def measure(
    datasets: Mapping[str, Any], *, workers: int, pictures: int, rounds: int
) -> dict[str, list[float]]:
    """Pictures a second of each data set, once a round, in turns."""
    rates: dict[str, list[float]] = {name: [] for name in datasets}
    for _ in range(rounds):
        for name, dataset in datasets.items():
            order = [place % len(dataset) for place in range(pictures)]
            loader = DataLoader(
                dataset, batch_size=_BATCH, sampler=order, num_workers=workers, collate_fn=_stack
            )
            batches = iter(loader)
            next(batches)  # by then the workers run
            started, seen = time.perf_counter(), 0
            for shown, _ in batches:
                seen += len(shown)
            rates[name].append(seen / (time.perf_counter() - started))
    return rates


def format_table(figures: dict[str, Any]) -> str:
    """A line a layout: pictures a second for each number of workers, and the ratio to
    torchvision's loader."""
    results = figures["results"]
    titles = [f"{r['workers']} workers" for r in results]
    lines = [
        f"{described(figures)}: pictures/s at {figures['size_px']} px",
        "",
        "   ".join((f"{'':23}", *(f"{title:>10}   {'ratio':>5}" for title in titles))).rstrip(),
    ]
    for name in (REFERENCE, *LAYOUTS):
        cells = []
        for result in results:
            rate, base = (median(result["rates"][key]) for key in (name, REFERENCE))
            cells.append(f"{rate:10.0f}   {rate / base:5.2f}")
        lines.append("   ".join((f"{name:23}", *cells)))
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m canvit_gym.bench.scenes", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--size", type=int, default=256, help="side of the pictures")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2])
    parser.add_argument("--pictures", type=int, default=1024, help="in a round, again and again")
    parser.add_argument("--rounds", type=int, default=5)
    add_arguments(parser)
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads or torch.get_num_threads())

    figures = machine(device=args.device, precision=args.precision)
    figures |= {"size_px": args.size, "results": []}
    with TemporaryDirectory() as folder:
        write_layouts(Path(folder))
        datasets = sources(Path(folder), size_px=args.size)
        for workers in args.workers:
            rates = measure(datasets, workers=workers, pictures=args.pictures, rounds=args.rounds)
            figures["results"].append({"workers": workers, "rates": rates})
    print(format_table(figures))
    if args.out:
        write(figures, args.out)


if __name__ == "__main__":
    main()
