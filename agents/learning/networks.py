"""Networks for Stable-Baselines3: a feature map over the canvas, and a head that chooses places.

Where to look is a question about places, often with several good answers. So every cell of the
canvas and every scale gets a logit of its own from weights that all cells share; a Gaussian over
(row, col, zoom) can only name one place, and learned nothing in comparison.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.type_aliases import Schedule
from torch import Tensor, nn

from canvit_gym.envs.actions import cell_actions
from canvit_gym.geometry import grid_centers

_SAME = 1e-4  # two viewpoints closer than this, in scene units, are the same
NEVER = -1e4  # a logit whose probability is 0


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
    """What crops show of cells [B, scales, P] at their own scale, summed: [B, A]. Rows of `shown`
    [A, P] are in the order of scales, as `cell_actions` lists crops."""
    by_scale = shown.unflatten(0, (cells.shape[1], -1))
    return torch.einsum("bsp,sap->bsa", cells, by_scale).flatten(1)


def visit_maps(viewpoints: Tensor, *, grid_size: int) -> Tensor:
    """Memory of the hand: float32 [B, 2, grid, grid].

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
    taken = (apart < _SAME) & (viewpoints[:, :, None, 3] > 0)
    num_scales = len(cells) // grid_size**2
    return taken.any(dim=1).float().unflatten(1, (num_scales, grid_size, grid_size))


class CanvasFeatures(BaseFeaturesExtractor):
    """Observation dict -> maps [B, (channels + scales) * grid * grid], flattened, not pooled.

    Canvas, entropy where there is one, visits and cell positions go in per cell; CLS and progress
    reach every cell. The last maps say which cell actions of each scale were taken already.
    """

    def __init__(
        self, observation_space: spaces.Dict, *, channels: int, cell_scales: Sequence[float]
    ) -> None:
        canvas, cls = observation_space["canvas"], observation_space["cls"]
        assert canvas.shape is not None and cls.shape is not None
        canvas_channels, self.grid_size, _ = canvas.shape
        super().__init__(observation_space, (channels + len(cell_scales)) * self.grid_size**2)
        self.channels, self.num_scales = channels, len(cell_scales)
        self.sees_entropy = "entropy" in observation_space.spaces
        grid = grid_centers(self.grid_size).T.reshape(1, 2, self.grid_size, self.grid_size)
        # Both the place and its distance from the middle, which decides how a crop is clipped.
        self.register_buffer("places", torch.cat((grid, grid.abs()), dim=1), persistent=False)
        self.places: Tensor
        listed = torch.zeros(0, 3)
        if cell_scales:
            listed = cell_actions(grid_size=self.grid_size, scales=cell_scales).viewpoints.rows
        self.register_buffer("cells", listed, persistent=False)
        self.cells: Tensor
        inputs = canvas_channels + self.sees_entropy + 2 + self.num_scales + 4
        self.embed = nn.Conv2d(inputs, channels, 1)
        self.context = nn.Linear(cls.shape[0] + 1, channels)
        self.mix = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))

    def forward(self, observations: dict[str, Tensor]) -> Tensor:
        canvas, viewpoints = observations["canvas"], observations["viewpoints"]
        taken = taken_maps(viewpoints, self.cells, grid_size=self.grid_size)
        maps = [
            canvas,
            visit_maps(viewpoints, grid_size=self.grid_size),
            taken,
            self.places.expand(len(canvas), -1, -1, -1),
        ]
        if self.sees_entropy:
            maps.append(observations["entropy"])
        context = torch.cat((observations["cls"], observations["progress"]), dim=1)
        x = self.embed(torch.cat(maps, dim=1))
        x = (x + self.context(context)[..., None, None]).relu()
        for conv in self.mix:
            x = x + conv(x).relu()
        return torch.cat((x, taken), dim=1).flatten(1)


class SpatialHeads(nn.Module):
    """CanvasFeatures' maps -> one logit for each (scale, row, col), and a vector for the value.

    A viewpoint that was taken is not offered again: from the same place there is little new. With
    `crops` float32 [scales * grid^2, 3], (row, col, scale), what cells have to offer at each scale
    is summed over the cells that a crop shows, and added to its logit. With `stop_action` a last
    logit stops. What the head says is the log-odds of that against looking anywhere, so that
    learning where to look changes nothing about when to stop.
    """

    def __init__(
        self, *, channels: int, grid_size: int, num_scales: int, stop_action: bool = False,
        crops: Tensor | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.channels = channels
        self.map_shape = (channels + num_scales, grid_size, grid_size)
        self.logits = _nearly_even(channels, num_scales)
        self.offers = None
        if crops is not None:
            self.offers = _nearly_even(channels, num_scales)
            shown = mostly_shown(crops, grid_size=grid_size)
            self.register_buffer("shown", shown, persistent=False)
            self.shown: Tensor
        self.value = nn.Sequential(nn.Linear(2 * channels, 64), nn.ReLU())
        self.stop = nn.Linear(2 * channels, 1) if stop_action else None
        if self.stop is not None:
            nn.init.normal_(self.stop.weight, std=0.01)
            nn.init.constant_(self.stop.bias, -3)  # start by stopping at one choice in twenty
        self.latent_dim_pi = num_scales * grid_size**2 + stop_action
        self.latent_dim_vf = 64

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        return self.forward_actor(features), self.forward_critic(features)

    def forward_actor(self, features: Tensor) -> Tensor:
        maps = features.unflatten(1, self.map_shape)
        x, taken = maps[:, : self.channels], maps[:, self.channels :] > 0
        places = self.logits(x).flatten(1)
        if self.offers is not None:
            places = places + crop_sums(self.offers(x).flatten(2), self.shown)
        places = places.masked_fill(taken.flatten(1), NEVER)
        if self.stop is None:
            return places
        stop = places.logsumexp(dim=1, keepdim=True) + self.stop(self._pooled(features))
        return torch.cat((places, stop), dim=1)

    def forward_critic(self, features: Tensor) -> Tensor:
        return self.value(self._pooled(features))

    def _pooled(self, features: Tensor) -> Tensor:
        x = features.unflatten(1, self.map_shape)[:, : self.channels]
        return torch.cat((x.mean(dim=(2, 3)), x.amax(dim=(2, 3))), dim=1)


def _nearly_even(channels: int, num_scales: int) -> nn.Conv2d:
    """A logit for each scale of each cell, at first close to those of all others."""
    conv = nn.Conv2d(channels, num_scales, 1)
    nn.init.normal_(conv.weight, std=0.01)
    assert conv.bias is not None
    nn.init.zeros_(conv.bias)
    return conv


class CanvasPolicy(ActorCriticPolicy):
    """Actor-critic on CanvasFeatures; its two kinds differ in how they name a place."""

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        lr_schedule: Schedule,
        channels: int = 48,
        cell_scales: Sequence[float] = (),
        **kwargs: Any,
    ) -> None:
        super().__init__(
            observation_space,
            action_space,
            lr_schedule,
            net_arch={"pi": [64], "vf": [64]},
            features_extractor_class=CanvasFeatures,
            features_extractor_kwargs={"channels": channels, "cell_scales": list(cell_scales)},
            **kwargs,
        )

    def _get_constructor_parameters(self) -> dict[str, Any]:
        data = super()._get_constructor_parameters()
        own = data.pop("features_extractor_kwargs")
        del data["features_extractor_class"], data["net_arch"], data["activation_fn"]
        return {**data, **own}


class CellPolicy(CanvasPolicy):
    """For `action="cell"`: a categorical over a map of places and scales, and where the action
    space has it over stopping, too.

    `cell_scales` must be the environment's; raises ValueError where the actions are not theirs.
    `sums_crops`: whether a logit adds up what its crop shows (see SpatialHeads).
    """

    def __init__(self, *args: Any, sums_crops: bool = False, **kwargs: Any) -> None:
        self.sums_crops = sums_crops
        super().__init__(*args, **kwargs)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {**super()._get_constructor_parameters(), "sums_crops": self.sums_crops}

    def _build(self, lr_schedule: Schedule) -> None:
        features, actions = self.features_extractor, self.action_space
        assert isinstance(features, CanvasFeatures) and isinstance(actions, spaces.Discrete)
        places = features.num_scales * features.grid_size**2
        self.stop_action = bool(actions.n == places + 1)
        if not self.stop_action and actions.n != places:
            raise ValueError(
                f"The action space has {actions.n} actions, but {features.num_scales} scales of "
                f"{features.grid_size} x {features.grid_size} cells make {places}; "
                "use action='cell' with the cell_scales that the policy has."
            )
        heads = SpatialHeads(
            channels=features.channels,
            grid_size=features.grid_size,
            num_scales=features.num_scales,
            stop_action=self.stop_action,
            crops=features.cells if self.sums_crops else None,
        )
        self.mlp_extractor = heads  # type: ignore[assignment]
        self.action_net = nn.Identity()  # the head's logits are the distribution's already
        self.value_net = nn.Linear(heads.latent_dim_vf, 1)
        self.optimizer = self.optimizer_class(  # type: ignore[call-arg]
            self.parameters(), lr=lr_schedule(1), **self.optimizer_kwargs
        )

    def _predict(self, observation: Any, deterministic: bool = False) -> Tensor:
        """Deterministically, first whether to stop and then where to look: beside many places that
        are as good, stopping may be the most probable action and yet improbable."""
        if not (deterministic and self.stop_action):
            return super()._predict(observation, deterministic)
        logits, _ = self.map_and_value(observation)
        places, stop = logits[:, :-1], logits[:, -1]
        return places.argmax(dim=1).where(stop < places.logsumexp(dim=1), places.shape[1])

    def map_and_value(self, observations: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Logits float32 [B, actions] before any normalisation, that of stopping last where there
        is one, and values float32 [B]."""
        features = self.extract_features(observations)
        latent_pi, latent_vf = self.mlp_extractor(features)
        return latent_pi, self.value_net(latent_vf)[:, 0]


class GaussianPolicy(CanvasPolicy):
    """For the Box action, for comparison: a Gaussian over (row, col, zoom) and, where the action
    space has it, whether to stop."""
