"""Both benchmarks with their usual settings: `python -m canvit_gym.bench --out FOLDER`."""

from __future__ import annotations

import argparse
from pathlib import Path

from canvit_gym.bench import env, model


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m canvit_gym.bench", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--out", type=Path, help="folder for model.json and env.json")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    args = parser.parse_args(argv)
    for name, benchmark in (("model", model), ("env", env)):
        out = [] if args.out is None else ["--out", str(args.out / f"{name}.json")]
        benchmark.main(["--device", args.device, *out])


if __name__ == "__main__":
    main()
