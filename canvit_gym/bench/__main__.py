"""The benchmarks with their usual settings: `python -m canvit_gym.bench --out FOLDER`.

Takes half an hour on two cores with --compile, else some ten minutes.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from canvit_gym.bench import env, model, scenes, training


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m canvit_gym.bench", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--out", type=Path, help="folder for their JSON files")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--compile", action="store_true", help="compiled models, too")
    args = parser.parse_args(argv)
    compiled = ["--compile"] if args.compile else []
    more: dict[str, list[str]] = {
        "model": [*compiled], "env": [], "training": compiled, "scenes": []
    }  # fmt: skip
    if args.device == "cpu":
        more["model"] += ["--memory", "--kinds"]
    benchmarks = {"model": model, "env": env, "training": training, "scenes": scenes}
    for name, benchmark in benchmarks.items():
        out = [] if args.out is None else ["--out", str(args.out / f"{name}.json")]
        benchmark.main(["--device", args.device, *more[name], *out])


if __name__ == "__main__":
    main()
