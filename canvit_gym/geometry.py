"""The scene frame: viewpoints, grids, sampling and pixel boxes.

Every coordinate in this project is (row, col) in the scene frame [-1, 1]^2, with (-1, -1) the top
left corner of the picture. A viewpoint is a square crop; its scale is half its side.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

SAME_PLACE = 1e-4
"""Rows, columns and scales closer than this, in scene units, are the same: float32 arithmetic on
them rounds by some 1e-7, and a pixel of the largest scenes is wider."""


@dataclass(frozen=True, kw_only=True)
class Viewpoint:
    """A batch of square crops of the scene.

    centers: float32 [B, 2], (row, col) in [-1, 1].
    scales: float32 [B], half sides in (0, 1]; 1 is the whole scene.

    Raises ValueError for other shapes or dtypes. Bounds are not checked here, because the model is
    defined outside the scene too (zero padding); see `check_inside`.
    """

    centers: Tensor
    scales: Tensor

    def __post_init__(self) -> None:
        if self.centers.ndim != 2 or self.centers.shape[1] != 2:
            raise ValueError(
                f"Viewpoint centers have shape {tuple(self.centers.shape)}; "
                "give [batch, 2] with (row, col) in the last axis."
            )
        if self.scales.shape != self.centers.shape[:1]:
            raise ValueError(
                f"Viewpoint scales have shape {tuple(self.scales.shape)}; "
                f"give [{self.centers.shape[0]}], one for each center."
            )
        if self.centers.dtype != torch.float32 or self.scales.dtype != torch.float32:
            raise ValueError(
                f"Viewpoint dtypes are {self.centers.dtype} and {self.scales.dtype}; give float32."
            )

    @classmethod
    def full_scene(cls, *, batch_size: int, device: torch.device | str | None = None) -> Viewpoint:
        """The whole scene, for each of `batch_size` scenes."""
        return cls(
            centers=torch.zeros(batch_size, 2, device=device),
            scales=torch.ones(batch_size, device=device),
        )

    @property
    def batch_size(self) -> int:
        return self.centers.shape[0]

    @property
    def rows(self) -> Tensor:
        """(row, col, scale) of each: float32 [B, 3]."""
        return torch.cat((self.centers, self.scales[:, None]), dim=1)

    def __getitem__(self, index: Tensor | slice) -> Viewpoint:
        """The viewpoints of some of the scenes, by mask, indices or slice."""
        return Viewpoint(centers=self.centers[index], scales=self.scales[index])

    def to(self, device: torch.device | str) -> Viewpoint:
        return Viewpoint(centers=self.centers.to(device), scales=self.scales.to(device))


def check_inside(viewpoint: Viewpoint, *, tolerance: float = 1e-5) -> None:
    """Raise ValueError unless every crop lies in the scene and every number is finite."""
    reach = viewpoint.centers.abs().amax(dim=1) + viewpoint.scales
    inside = (viewpoint.scales > 0) & (reach <= 1 + tolerance)  # False for NaN too
    if not bool(inside.all()):
        i = int((~inside).nonzero()[0, 0])
        row, col = viewpoint.centers[i].tolist()
        raise ValueError(
            f"Viewpoint {i} (row {row:.4g}, col {col:.4g}, scale {float(viewpoint.scales[i]):.4g}) "
            "leaves the scene; |row| + scale and |col| + scale must be at most 1, with scale > 0."
        )


def grid_centers(size: int, *, device: torch.device | str | None = None) -> Tensor:
    """Centres of the cells of a size x size grid over the frame: float32 [size^2, 2], row-major."""
    return grid_in_scene(Viewpoint.full_scene(batch_size=1, device=device), size)[0]


def grid_axes(viewpoint: Viewpoint, size: int) -> Tensor:
    """Where the i-th row and the i-th column of a size x size grid over each crop are in the scene:
    float32 [B, size, 2]."""
    axis = (torch.arange(size, dtype=torch.float32, device=viewpoint.centers.device) + 0.5) / size
    return viewpoint.centers[:, None] + viewpoint.scales[:, None, None] * (axis * 2 - 1)[:, None]


def grid_in_scene(viewpoint: Viewpoint, size: int) -> Tensor:
    """Scene positions of the cells of a grid laid over each crop: float32 [B, size^2, 2]."""
    rows, cols = _rows_and_cols(viewpoint, size)
    return torch.stack((rows, cols), dim=-1).flatten(1, 2)


def _rows_and_cols(viewpoint: Viewpoint, size: int) -> tuple[Tensor, Tensor]:
    """Each float32 [B, size, size], a view of `grid_axes`."""
    rows, cols = grid_axes(viewpoint, size).unbind(-1)
    return rows[:, :, None].expand(-1, -1, size), cols[:, None].expand(-1, size, -1)


def sample_at_viewpoint(*, spatial: Tensor, viewpoint: Viewpoint, glimpse_size_px: int) -> Tensor:
    """Crop and resample: [B, C, H, W] -> [B, C, glimpse_size_px, glimpse_size_px], same dtype.

    Bilinear in float32, zero outside the scene, no anti-aliasing at any zoom (paper, section 3).
    """
    rows, cols = _rows_and_cols(viewpoint, glimpse_size_px)
    grid = torch.stack((cols, rows), dim=-1)  # torch wants (x, y)
    sampled = F.grid_sample(
        spatial.float(), grid, mode="bilinear", padding_mode="zeros", align_corners=False
    )
    return sampled.to(spatial.dtype)


def pixel_boxes(viewpoint: Viewpoint, *, scene_size_px: int) -> Tensor:
    """(top, left, bottom, right) of each crop in pixels of a square scene: float32 [B, 4]."""
    low = (viewpoint.centers - viewpoint.scales[:, None] + 1) * (scene_size_px / 2)
    high = (viewpoint.centers + viewpoint.scales[:, None] + 1) * (scene_size_px / 2)
    return torch.cat((low, high), dim=1)


@dataclass(frozen=True, kw_only=True)
class GlimpseSpec:
    """How a model looks: side of a glimpse in pixels, cells on a side of the canvas, and the
    smallest scale that is worth looking at (a glimpse then shows the scene pixel by pixel)."""

    glimpse_size_px: int
    canvas_grid_size: int
    min_scale: float

    @property
    def cell_scales(self) -> tuple[float, float, float]:
        """Scales of the cell actions, where none are asked for."""
        return (0.125, 0.25, 0.5) if self.min_scale <= 0.125 else (0.25, 0.375, 0.5)


OFFICIAL_GLIMPSE = GlimpseSpec(glimpse_size_px=128, canvas_grid_size=32, min_scale=0.05)
"""The published protocol: 512 px scenes (paper, section 4)."""

MINI_GLIMPSE = GlimpseSpec(glimpse_size_px=32, canvas_grid_size=8, min_scale=0.25)
"""The embedded model's: 128 px scenes."""


def random_viewpoint(
    *, batch_size: int, min_scale: float, generator: torch.Generator | None = None
) -> Viewpoint:
    """The paper's R-IID: scales in [min_scale, 1] with density falling to 0 at 1, always inside.

    Drawn on the generator's device (CPU without one).
    """
    device = None if generator is None else generator.device
    u = torch.rand(batch_size, generator=generator, device=device)
    reach = u.sqrt() * (1 - min_scale)  # how far the centre may be from the middle
    offsets = torch.rand(batch_size, 2, generator=generator, device=device) * 2 - 1
    return Viewpoint(centers=offsets * reach[:, None], scales=1 - reach)


def clip_into_scene(*, centers: Tensor, scales: Tensor) -> Viewpoint:
    """The viewpoints nearest to these centers [B, 2] whose crops of these scales [B] fit."""
    reach = (1 - scales)[:, None]
    return Viewpoint(centers=centers.clamp(-reach, reach), scales=scales)
