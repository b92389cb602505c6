"""Networks of learned policies: a feature map over the canvas, and a head that chooses places.

Where to look is a question about places, often with several good answers. So every cell of the
canvas and every scale gets a logit of its own from weights that all cells share; a Gaussian over
(row, col, zoom) can only name one place, and learned nothing in comparison.

These are plain torch modules, so a saved policy plays without the library that trained it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import torch
from gymnasium import spaces
from torch import Tensor, nn

from canvit_gym.envs.actions import cell_actions
from canvit_gym.errors import require_choice
from canvit_gym.geometry import SAME_PLACE, grid_centers

NEVER = -1e4  # a logit whose probability is 0

NamesPlaces = Literal["cell", "box"]
"""How a network names viewpoints: a logit for each cell and scale, or one (row, col, zoom)."""

_MAX_SIZE = 2**16


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """The sizes of a policy network: all that is needed to build one, as `policy.json` has it.

    action: how it names viewpoints, as the environment's keyword. stop_action: whether it can end
    an episode. channels: width of its feature maps. canvas_channels, grid_size: of the observed
    canvas [canvas_channels, grid_size, grid_size]. cls_dim: of the observed CLS. entropy: whether
    it reads an entropy map. cell_scales: of the cell actions; () for "box". sums_crops: whether a
    logit adds up what its crop shows (see PlaceLogits).
    """

    action: NamesPlaces
    stop_action: bool
    channels: int
    canvas_channels: int
    grid_size: int
    cls_dim: int
    entropy: bool
    cell_scales: tuple[float, ...] = ()
    sums_crops: bool = False

    def __post_init__(self) -> None:
        require_choice("action", self.action, get_args(NamesPlaces))
        for name in ("channels", "canvas_channels", "grid_size", "cls_dim"):
            value = getattr(self, name)
            if type(value) is not int or not 1 <= value <= _MAX_SIZE:
                raise ValueError(f"{name} is {value!r}; give an integer from 1 to {_MAX_SIZE}.")
        for name in ("stop_action", "entropy", "sums_crops"):
            if type(getattr(self, name)) is not bool:
                raise ValueError(f"{name} is {getattr(self, name)!r}; give True or False.")
        scales = self.cell_scales
        if not all(type(s) in (int, float) and 0 < s <= 1 for s in scales):
            raise ValueError(f"cell_scales is {scales!r}; give scales in (0, 1].")
        if bool(scales) != (self.action == "cell"):
            raise ValueError(f"cell_scales is {scales!r}; give some for 'cell', none for 'box'.")

    @classmethod
    def for_spaces(
        cls,
        observation_space: spaces.Dict,
        action_space: spaces.Space[Any],
        *,
        channels: int,
        cell_scales: Sequence[float] = (),
        sums_crops: bool = False,
    ) -> NetworkConfig:
        """The network of this width for an environment's spaces: a cell network with `cell_scales`,
        else a box network. Raises ValueError where the actions are not those of these scales."""
        canvas, cls_shape = observation_space["canvas"].shape, observation_space["cls"].shape
        assert canvas is not None and cls_shape is not None
        grid_size = canvas[1]
        if cell_scales:
            places = len(cell_scales) * grid_size**2
            count = int(action_space.n) if isinstance(action_space, spaces.Discrete) else 0
            if count not in (places, places + 1):
                raise ValueError(
                    f"The action space has {count} actions, but {len(cell_scales)} scales of "
                    f"{grid_size} x {grid_size} cells make {places}; use action='cell' with the "
                    "cell_scales that the policy has."
                )
            stop_action = count == places + 1
        else:
            if not isinstance(action_space, spaces.Box):
                raise ValueError(
                    f"The action space is {action_space}; networks are for action='box', or for "
                    "'cell' with its cell_scales."
                )
            stop_action = action_space.shape[0] == 4
        return cls(
            action="cell" if cell_scales else "box",
            stop_action=stop_action,
            channels=channels,
            canvas_channels=canvas[0],
            grid_size=grid_size,
            cls_dim=cls_shape[0],
            entropy="entropy" in observation_space.spaces,
            cell_scales=tuple(float(scale) for scale in cell_scales),
            sums_crops=sums_crops,
        )

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> NetworkConfig:
        """The config of these JSON values; raises ValueError for missing, unknown or bad ones."""
        try:
            return cls(**{**values, "cell_scales": tuple(values["cell_scales"])})
        except (KeyError, TypeError) as error:
            raise ValueError(f"network is no network config ({error})") from error

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "cell_scales": list(self.cell_scales)}


def coverage(viewpoints: Tensor, *, grid_size: int) -> Tensor:
    """How much of each canvas cell each glimpse saw: [B, T, 4] -> [B, T, grid, grid] in [0, 1].

    Rows of `viewpoints` are (row, col, scale, taken); rows not taken cover nothing.
    """
    half_cell = 1 / grid_size
    cells = grid_centers(grid_size, device=viewpoints.device).reshape(1, 1, -1, 2)
    centers, scales = viewpoints[..., None, :2], viewpoints[..., None, 2:3]
    high = torch.minimum(cells + half_cell, centers + scales)
    low = torch.maximum(cells - half_cell, centers - scales)
    share = ((high - low) / (2 * half_cell)).clamp(0, 1).prod(dim=-1)
    return (share * viewpoints[..., 3:]).unflatten(-1, (grid_size, grid_size))


def mostly_shown(crops: Tensor, *, grid_size: int) -> Tensor:
    """How much of each canvas cell crops [A, 3], (row, col, scale), show, where that is at least
    half of it: float32 [A, grid^2], 0 elsewhere."""
    taken = torch.cat((crops, torch.ones_like(crops[:, :1])), dim=1)
    shown = coverage(taken[:, None], grid_size=grid_size).flatten(1)
    return shown * (shown >= 0.5)


def crop_sums(cells: Tensor, shown: Tensor) -> Tensor:
    """Sums what crops show of cells [B, scales, P] at their own scale: [B, A]. Rows of `shown`
    [A, P] are in the order of scales, as `cell_actions` lists crops."""
    by_scale = shown.unflatten(0, (cells.shape[1], -1))
    return torch.einsum("bsp,sap->bsa", cells, by_scale).flatten(1)


def visit_maps(viewpoints: Tensor, *, grid_size: int) -> Tensor:
    """Maps of where, and how finely, was already looked: float32 [B, 2, grid, grid].

    First, the finest detail at which a cell was seen (0 never or as a whole scene only, growing by
    a quarter with every halving of the scale); second, how often it was seen, over the budget.
    """
    seen = coverage(viewpoints, grid_size=grid_size)
    detail = -viewpoints[..., 2].clamp(min=1 / 64).log2() / 4
    finest = (seen * detail[..., None, None]).amax(dim=1)
    return torch.stack((finest, seen.mean(dim=1)), dim=1)


def taken_maps(viewpoints: Tensor, cells: Tensor, *, grid_size: int) -> Tensor:
    """Which cell actions were taken: [B, T, 4], cells [scales * grid^2, 3] -> float32
    [B, scales, grid, grid], 1 where one of the glimpses was that very viewpoint, else 0."""
    apart = (viewpoints[:, :, None, :3] - cells).abs().amax(dim=-1)
    taken = (apart < SAME_PLACE) & (viewpoints[:, :, None, 3] > 0)
    num_scales = len(cells) // grid_size**2
    return taken.any(dim=1).float().unflatten(1, (num_scales, grid_size, grid_size))


class CanvasFeatures(nn.Module):
    """Observation dict -> maps [B, channels + scales, grid, grid].

    Canvas, entropy where there is one, visits and cell positions go in per cell; CLS and progress
    reach every cell. The last maps say which cell actions of each scale were taken already.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        channels, grid_size = config.channels, config.grid_size
        grid = grid_centers(grid_size).T.reshape(1, 2, grid_size, grid_size)
        # Both the place and its distance from the middle, which decides how a crop is clipped.
        self.register_buffer("places", torch.cat((grid, grid.abs()), dim=1), persistent=False)
        self.places: Tensor
        self.register_buffer("cells", _cells(config), persistent=False)
        self.cells: Tensor
        inputs = config.canvas_channels + config.entropy + 2 + len(config.cell_scales) + 4
        self.embed = nn.Conv2d(inputs, channels, 1)
        self.context = nn.Linear(config.cls_dim + 1, channels)
        self.mix = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))

    def forward(self, observations: dict[str, Tensor]) -> Tensor:
        canvas, viewpoints = observations["canvas"], observations["viewpoints"]
        grid_size = self.config.grid_size
        taken = taken_maps(viewpoints, self.cells, grid_size=grid_size)
        maps = [
            canvas,
            visit_maps(viewpoints, grid_size=grid_size),
            taken,
            self.places.expand(len(canvas), -1, -1, -1),
        ]
        if self.config.entropy:
            maps.append(observations["entropy"])
        context = torch.cat((observations["cls"], observations["progress"]), dim=1)
        x = self.embed(torch.cat(maps, dim=1))
        x = (x + self.context(context)[..., None, None]).relu()
        for conv in self.mix:
            x = x + conv(x).relu()
        return torch.cat((x, taken), dim=1)


def pooled(features: Tensor) -> Tensor:
    """Mean and maximum over places of maps [B, channels, grid, grid]: [B, 2 * channels]."""
    return torch.cat((features.mean(dim=(2, 3)), features.amax(dim=(2, 3))), dim=1)


class PlaceLogits(nn.Module):
    """CanvasFeatures' maps -> a logit for each (scale, row, col): [B, scales * grid^2].

    A viewpoint that was taken is not offered again: from the same place there is little new. With
    `sums_crops`, what cells have to offer at each scale is summed over the cells that a crop shows,
    and added to its logit. With `stop_action` a last logit stops. What the head says is the
    log-odds of that against looking anywhere, so that learning where to look changes nothing about
    when to stop.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        channels, num_scales = config.channels, len(config.cell_scales)
        self.channels = channels
        self.logits = _nearly_even(channels, num_scales)
        self.offers = None
        if config.sums_crops:
            self.offers = _nearly_even(channels, num_scales)
            shown = mostly_shown(_cells(config), grid_size=config.grid_size)
            self.register_buffer("shown", shown, persistent=False)
            self.shown: Tensor
        self.stop = nn.Linear(2 * channels, 1) if config.stop_action else None
        if self.stop is not None:
            nn.init.normal_(self.stop.weight, std=0.01)
            nn.init.constant_(self.stop.bias, -3)  # start by stopping at one choice in twenty

    def forward(self, features: Tensor) -> Tensor:
        x, taken = features[:, : self.channels], features[:, self.channels :] > 0
        places: Tensor = self.logits(x).flatten(1)
        if self.offers is not None:
            places = places + crop_sums(self.offers(x).flatten(2), self.shown)
        places = places.masked_fill(taken.flatten(1), NEVER)
        if self.stop is None:
            return places
        stop = places.logsumexp(dim=1, keepdim=True) + self.stop(pooled(x))
        return torch.cat((places, stop), dim=1)


def most_probable(logits: Tensor, *, stop_action: bool) -> Tensor:
    """The action that a deterministic policy takes, from logits [B, A] of places and, last, of
    stopping where there is one: int64 [B].

    It decides first whether to stop and then where to look: beside many places that are as good,
    stopping may be the most probable action and yet improbable.
    """
    if not stop_action:
        return logits.argmax(dim=1)
    places, stop = logits[:, :-1], logits[:, -1]
    return places.argmax(dim=1).where(stop < places.logsumexp(dim=1), places.shape[1])


class PolicyNetwork(nn.Module):
    """Observations [B, ...] -> actions of the environment's space, nothing drawn by chance."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        self.features = CanvasFeatures(config)

    def act(self, observations: dict[str, Tensor]) -> Tensor:
        """The most probable actions, on the observations' device."""
        raise NotImplementedError

    @staticmethod
    def build(config: NetworkConfig) -> PolicyNetwork:
        """The network of a config, with new weights, drawn without changing torch's generator."""
        # Else each save of a policy would change how its training goes on.
        with torch.random.fork_rng(devices=[]):
            return CellNetwork(config) if config.action == "cell" else BoxNetwork(config)


class CellNetwork(PolicyNetwork):
    """For `action="cell"`: a map of logits over places and scales, and one for stopping."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__(config)
        self.places = PlaceLogits(config)

    def logits(self, observations: dict[str, Tensor]) -> Tensor:
        """Before any normalisation, float32 [B, actions], that of stopping last."""
        found: Tensor = self.places(self.features(observations))
        return found

    def act(self, observations: dict[str, Tensor]) -> Tensor:
        return most_probable(self.logits(observations), stop_action=self.config.stop_action)


class BoxNetwork(PolicyNetwork):
    """For `action="box"`, for comparison: one (row, col, zoom), and whether to stop."""

    HIDDEN = 64

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__(config)
        inputs = config.channels * config.grid_size**2
        self.hidden = nn.Linear(inputs, self.HIDDEN)
        self.mean = nn.Linear(self.HIDDEN, 3 + config.stop_action)

    def act(self, observations: dict[str, Tensor]) -> Tensor:
        found: Tensor = self.mean(self.hidden(self.features(observations).flatten(1)).tanh())
        return found.clamp(-1, 1)


def _cells(config: NetworkConfig) -> Tensor:
    """The cell actions, (row, col, scale): float32 [scales * grid^2, 3]."""
    if not config.cell_scales:
        return torch.zeros(0, 3)
    return cell_actions(grid_size=config.grid_size, scales=config.cell_scales).viewpoints.rows


def _nearly_even(channels: int, num_scales: int) -> nn.Conv2d:
    """A logit for each scale of each cell, at first close to those of all others."""
    conv = nn.Conv2d(channels, num_scales, 1)
    nn.init.normal_(conv.weight, std=0.01)
    assert conv.bias is not None
    nn.init.zeros_(conv.bias)
    return conv
