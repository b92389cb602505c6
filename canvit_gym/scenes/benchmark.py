"""How long one generated scene takes: `python -m canvit_gym.scenes.benchmark`.

Counts processor time, so that other work on the machine disturbs it little.
"""

import argparse
from collections.abc import Sequence
from statistics import median
from time import process_time

from canvit_gym.scenes.emoji import SPLITS, EmojiScenes

WARM_UP = 2_000
BLOCKS = 9
BLOCK = 200


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m canvit_gym.scenes.benchmark", description=__doc__
    )
    parser.add_argument("--splits", nargs="+", choices=SPLITS, default=SPLITS, help="which to draw")
    for split in parser.parse_args(arguments).splits:
        scenes = EmojiScenes(split=split)
        start = process_time()
        scenes[0]
        first_ms = 1e3 * (process_time() - start)
        for index in range(WARM_UP):  # fills the caches of sprites and textures
            scenes[index]
        block_ms = []
        for block in range(BLOCKS):
            start = process_time()
            for index in range(BLOCK):
                scenes[WARM_UP + block * BLOCK + index]
            block_ms.append(1e3 * (process_time() - start) / BLOCK)
        print(
            f"{split}: {median(block_ms):.2f} ms a scene on one core"
            f" (blocks {min(block_ms):.2f} .. {max(block_ms):.2f}), the first {first_ms:.0f} ms"
        )


if __name__ == "__main__":
    main()
