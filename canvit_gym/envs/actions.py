"""Actions name viewpoints, and none of them can leave the scene.

With `stop_action` there is one more thing to do than to look: to stop, which takes no glimpse.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args

import numpy as np
import torch
from gymnasium import spaces

from canvit_gym.envs.rollout import Choice
from canvit_gym.errors import require_bool, require_choice
from canvit_gym.geometry import GlimpseSpec, Viewpoint, clip_into_scene, grid_centers

ActionKind = Literal["box", "cell", "tile"]
_TILE_LEVELS = (0, 1, 2)


class Actions(Protocol):
    """A space of actions for one scene, and the viewpoints that they mean."""

    @property
    def space(self) -> spaces.Space[Any]: ...

    @property
    def stop_action(self) -> bool:
        """Whether one of them stops."""
        ...

    def viewpoint(self, actions: np.ndarray | torch.Tensor) -> Viewpoint:
        """Viewpoints of a batch of actions [B, ...], any inside the scene for those that stop;
        raises ValueError for infeasible ones."""
        ...

    def choice(self, actions: np.ndarray | torch.Tensor) -> Choice:
        """Those viewpoints, and which of the actions stop; raises ValueError as they do."""
        ...

    def nearest(self, viewpoint: Viewpoint) -> np.ndarray:
        """The actions [B, ...] that come closest to these viewpoints."""
        ...


@dataclass(frozen=True, kw_only=True)
class BoxActions:
    """Box(-1, 1, (3,)) = (row, col, zoom), and every in-bounds viewpoint has exactly one.

    zoom sets the scale geometrically, from 1 at -1 to `min_scale` at 1; then row and col set the
    centre within +-(1 - scale). Size before place follows AdaGlimpse. With `stop_action` a fourth
    number above 0 stops, whatever the other three say.
    """

    min_scale: float
    stop_action: bool = False

    @property
    def space(self) -> spaces.Box:
        return spaces.Box(-1.0, 1.0, (3 + self.stop_action,), np.float32)

    def viewpoint(self, actions: np.ndarray | torch.Tensor) -> Viewpoint:
        values = _as_tensor(actions)
        names = ("row", "col", "zoom", "stop")[: 3 + self.stop_action]
        if values.ndim != 2 or values.shape[1] != len(names) or not values.is_floating_point():
            raise ValueError(
                f"Actions have shape {tuple(values.shape)} and dtype {values.dtype}; "
                f"give floats [batch, {len(names)}] with ({', '.join(names)})."
            )
        inside = (values.abs() <= 1).all(dim=1)  # NaN compares False
        if not bool(inside.all()):
            first = values[~inside][0].tolist()
            shown = ", ".join(f"{n} {v:.9g}" for n, v in zip(names, first, strict=True))
            raise ValueError(
                f"Action ({shown}) is outside the box; all numbers must be finite and in [-1, 1]."
            )
        values = values.float()
        scales = self.min_scale ** ((values[:, 2] + 1) / 2)
        return Viewpoint(centers=values[:, :2] * (1 - scales)[:, None], scales=scales)

    def choice(self, actions: np.ndarray | torch.Tensor) -> Choice:
        viewpoint = self.viewpoint(actions)
        if not self.stop_action:
            return Choice.look(viewpoint)
        return Choice(viewpoint=viewpoint, stop=_as_tensor(actions)[:, 3] > 0)

    def nearest(self, viewpoint: Viewpoint) -> np.ndarray:
        scales = viewpoint.scales.clamp(self.min_scale, 1)
        reach = (1 - scales)[:, None]
        places = torch.where(reach > 0, viewpoint.centers / reach.clamp(min=1e-9), 0)
        zoom = 2 * scales.log() / math.log(self.min_scale) - 1
        stop = -torch.ones_like(zoom)[:, None].expand(-1, int(self.stop_action))
        return torch.cat((places, zoom[:, None], stop), dim=1).clamp(-1, 1).cpu().numpy()


@dataclass(frozen=True, kw_only=True)
class ListedActions:
    """Discrete(n): action i is the i-th of a list of viewpoints; with `stop_action` one more, the
    last, stops."""

    viewpoints: Viewpoint
    stop_action: bool = False

    @property
    def scales(self) -> list[float]:
        """The different scales, in the order in which they come."""
        return list(dict.fromkeys(round(s, 4) for s in self.viewpoints.scales.tolist()))

    @property
    def space(self) -> spaces.Discrete:
        return spaces.Discrete(self.viewpoints.batch_size + self.stop_action)

    def viewpoint(self, actions: np.ndarray | torch.Tensor) -> Viewpoint:
        values = _as_tensor(actions)
        count = int(self.space.n)
        if values.ndim != 1 or values.dtype.is_floating_point or values.dtype == torch.bool:
            raise ValueError(
                f"Actions have shape {tuple(values.shape)} and dtype {values.dtype}; "
                f"give integers [batch] from 0 to {count - 1}."
            )
        if bool(((values < 0) | (values >= count)).any()):
            raise ValueError(
                f"Actions {values.tolist()} are not all in range; give integers from 0 to "
                f"{count - 1}."
            )
        looks = values.long().clamp(max=self.viewpoints.batch_size - 1)
        return self.viewpoints[looks.to(self.viewpoints.centers.device)]

    def choice(self, actions: np.ndarray | torch.Tensor) -> Choice:
        viewpoint = self.viewpoint(actions)
        return Choice(viewpoint=viewpoint, stop=_as_tensor(actions) >= self.viewpoints.batch_size)

    def nearest(self, viewpoint: Viewpoint) -> np.ndarray:
        """Nearest in (row, col, log scale)."""
        here, there = (
            torch.cat((v.centers, v.scales.log()[:, None]), dim=1).cpu()
            for v in (viewpoint, self.viewpoints)
        )
        return torch.cdist(here, there).argmin(dim=1).numpy()


def _as_tensor(actions: Any) -> torch.Tensor:
    """Actions as an ordinary tensor: float32, int64 or bool. Raises ValueError for anything that is
    no array of real numbers with values."""
    if isinstance(actions, torch.Tensor):
        if actions.is_meta or actions.is_complex() or actions.layout != torch.strided:
            raise ValueError(
                f"Actions are a tensor with dtype {actions.dtype} on {actions.device.type}; give "
                "one of real numbers that has values."
            )
        values = actions.detach()
        return values if values.dtype == torch.bool else _narrowed(values)
    try:
        array = np.asarray(_from_tensors(actions))
        if array.dtype.kind not in "fiub":
            raise TypeError(f"dtype {array.dtype}")
        if array.dtype.kind == "u" and array.size and int(array.max()) > np.iinfo(np.int64).max:
            raise ValueError("too large a number")
        native: np.ndarray = np.ascontiguousarray(array, dtype=_NATIVE[array.dtype.kind]).reshape(
            array.shape
        )
    except (TypeError, ValueError, RuntimeError) as error:
        shown = " ".join(repr(actions).split())  # an array's repr has several lines
        raise ValueError(
            f"Actions {shown[:200]} are no array of numbers ({error}); give one."
        ) from error
    return torch.from_numpy(native)


_NATIVE = {"f": np.float64, "i": np.int64, "u": np.int64, "b": np.bool_}
"""The dtype that arrays of each kind become, of this machine's byte order."""


def _narrowed(values: torch.Tensor) -> torch.Tensor:
    return values.double() if values.is_floating_point() else values.long()


def _from_tensors(actions: Any) -> Any:
    """A list with tensors in it, as lists of numbers."""
    if isinstance(actions, list | tuple):
        return [_from_tensors(each) for each in actions]
    return actions.detach().tolist() if isinstance(actions, torch.Tensor) else actions


def cell_actions(
    *, grid_size: int, scales: Sequence[float], stop_action: bool = False
) -> ListedActions:
    """Every cell of a grid at every scale, scale by scale, row-major, clipped into the scene.

    Action (s * grid_size + row) * grid_size + col: the layout of a map [scales, grid, grid].
    """
    cells = grid_centers(grid_size)
    levels = [
        clip_into_scene(centers=cells, scales=torch.full((len(cells),), scale)) for scale in scales
    ]
    return _listed(levels, stop_action=stop_action)


def tile_actions(*, stop_action: bool = False) -> ListedActions:
    """The quadtree's tiles: 1, then 4, then 16, each level row-major."""
    levels = []
    for level in _TILE_LEVELS:
        cells = grid_centers(2**level)
        levels.append(Viewpoint(centers=cells, scales=torch.full((len(cells),), 2.0**-level)))
    return _listed(levels, stop_action=stop_action)


def _listed(levels: list[Viewpoint], *, stop_action: bool) -> ListedActions:
    return ListedActions(
        viewpoints=Viewpoint(
            centers=torch.cat([v.centers for v in levels]),
            scales=torch.cat([v.scales for v in levels]),
        ),
        stop_action=stop_action,
    )


def make_actions(
    kind: ActionKind,
    *,
    glimpse: GlimpseSpec,
    cell_grid: int,
    cell_scales: Sequence[float],
    stop_action: bool,
) -> Actions:
    """The action space by name; raises ValueError for an unknown name or a bad scale."""
    require_choice("action", kind, get_args(ActionKind))
    stop_action = require_bool("stop_action", stop_action)
    if kind == "box":
        return BoxActions(min_scale=glimpse.min_scale, stop_action=stop_action)
    if kind == "tile":
        return tile_actions(stop_action=stop_action)
    scales = require_scales(cell_scales)
    return cell_actions(grid_size=cell_grid, scales=scales, stop_action=stop_action)


def require_scales(scales: Any) -> list[float]:
    """The scales as floats; raises ValueError unless they are some numbers in (0, 1]."""
    try:
        values = [] if isinstance(scales, str | bytes) else [float(scale) for scale in scales]
    except (TypeError, ValueError):
        values = []
    if not values or not all(0 < scale <= 1 for scale in values):
        raise ValueError(f"cell_scales is {scales!r}; give at least one scale in (0, 1].")
    return values
