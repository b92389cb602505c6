"""The machine that figures were measured on, and the command line that the benchmarks share."""

from __future__ import annotations

import argparse
import json
import os
import platform
from pathlib import Path
from typing import Any

import torch


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--threads", type=int, help="torch's on the CPU")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--out", type=Path, help="JSON of all figures")


def machine(*, device: str, precision: str) -> dict[str, Any]:
    """Describes what the figures that follow are measured on and with; load: of the last minute."""
    cpu_info = Path("/proc/cpuinfo")
    names = [
        line.partition(":")[2].strip()
        for line in (cpu_info.read_text().splitlines() if cpu_info.exists() else ())
        if line.startswith("model name")
    ]
    return {
        "cpu": names[0] if names else platform.processor() or platform.machine(),
        "gpu": torch.cuda.get_device_name() if device == "cuda" else None,
        "threads": torch.get_num_threads(),
        "load": os.getloadavg()[0],
        "torch": torch.__version__,
        "precision": precision,
    }


def described(figures: dict[str, Any]) -> str:
    """The machine in a line."""
    device = figures["gpu"] or f"{figures['cpu']}, {figures['threads']} threads"
    return f"{device}, {figures['precision']}, torch {figures['torch']}"


def write(figures: dict[str, Any], out: Path) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
