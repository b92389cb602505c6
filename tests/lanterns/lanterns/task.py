"""How bright is each cell?"""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from canvit_gym.drawing import Panel, cells_panel
from canvit_gym.palette import heat
from canvit_gym.preprocess import normalize
from canvit_gym.tasks.base import Description, Line, Metric, Verdict


@dataclass(frozen=True, kw_only=True)
class Brightness:
    model: Any
    grid: int

    potential_names = ("neg_error", "close", "seen")
    headline = "close"
    confidence = "seen"
    metrics = (
        Metric(name="close", title="cells about right", values="close"),
        Metric(name="error", title="mean error", values="error"),
    )
    success = None
    class_names = ()
    goal = "tells how bright each place is"
    answer_title = "cells about right"
    scoring: ClassVar[dict[str, Any]] = {}

    def belief(self, state):
        bright = self.model.mean(state).mean(dim=-1)
        return torch.stack((bright, state.seen[..., 0]), dim=1)  # [B, 2, cells]

    def targets(self, scenes, *, device):
        pictures = normalize(torch.from_numpy(np.stack([scene.picture for scene in scenes])))
        cells = torch.nn.functional.adaptive_avg_pool2d(pictures.mean(dim=1), self.grid)
        return cells.flatten(1).to(device)

    def judge(self, belief, targets):
        error = (belief[:, 0] - targets).abs()
        mean = error.mean(dim=1)
        return Verdict(
            potentials={
                "neg_error": -mean,
                "close": (error < 0.3).float().mean(dim=1),
                "seen": belief[:, 1].log1p().mean(dim=1),
            },
            outcome={"error": mean},
        )

    def panels(self, judged):
        def drawn(values):
            return cells_panel(heat((values.reshape(self.grid, -1).cpu().numpy() + 2) / 4))

        return [
            Panel(
                caption="believed",
                image=drawn(judged.belief[0, 0]),
                title="believed brightness",
                alt="The brightness as it is believed",
            ),
            Panel(
                caption="true",
                image=drawn(judged.targets[0]),
                title="true brightness",
                alt="The true brightness",
                shows_truth=True,
            ),
        ]

    def describe(self, judged, *, with_truth):
        brightest = float(judged.belief[0, 0].max())
        close = float(judged.potentials["close"][0])
        says = f"{close:.0%} of the cells are about right" if with_truth else "It is night"
        line = Line(name="brightest cell", numbers=(brightest,))
        return Description(verdict=f"{says}.", head=("", "believed"), lines=(line,), percent=False)
