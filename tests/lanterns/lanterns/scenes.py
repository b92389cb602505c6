"""Nights with a few lanterns."""

import numpy as np

from canvit_gym import Scene


class Nights:
    size_px = 64
    class_names = ()
    mask_class_names = ()
    exchangeable = True

    def __init__(self, split):
        self.seed = {"train": 0, "test": 1}[split]

    def __len__(self):
        return 500

    def __getitem__(self, index):
        if not 0 <= index < len(self):
            raise IndexError(index)
        rng = np.random.default_rng([self.seed, index])
        picture = rng.integers(0, 10, (64, 64, 3), dtype=np.uint8)
        for row, col in 8 * rng.integers(0, 8, (12, 2)):
            picture[row : row + 8, col : col + 8] = rng.integers(60, 255)
        return Scene(
            name=f"nights/{self.seed}/{index}", picture=picture, label=-1, mask=None, target=None
        )
