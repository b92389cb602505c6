"""Policies for Stable-Baselines3's PPO, made of the networks that are saved and played."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.type_aliases import Schedule
from torch import Tensor, nn

from canvit_agents.policies.networks import (
    BoxNetwork,
    CanvasFeatures,
    CellNetwork,
    NetworkConfig,
    PlaceLogits,
    PolicyNetwork,
    most_probable,
    pooled,
)

_VALUE_WIDTH = 64


class CanvasExtractor(BaseFeaturesExtractor):
    """The feature maps [B, maps, grid, grid] flattened, as Stable-Baselines3 wants features."""

    def __init__(self, observation_space: spaces.Dict, *, config: NetworkConfig) -> None:
        maps = config.channels + len(config.cell_scales)
        super().__init__(observation_space, maps * config.grid_size**2)
        self.shape = (maps, config.grid_size, config.grid_size)
        self.maps = CanvasFeatures(config)

    def forward(self, observations: dict[str, Tensor]) -> Tensor:
        features: Tensor = self.maps(observations)
        return features.flatten(1)


class PlaceHeads(nn.Module):
    """Flattened feature maps -> logits of the actions, and a vector for the value."""

    def __init__(self, config: NetworkConfig, *, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.channels, self.shape = config.channels, shape
        self.places = PlaceLogits(config)
        self.value = nn.Sequential(nn.Linear(2 * config.channels, _VALUE_WIDTH), nn.ReLU())
        self.latent_dim_pi = len(config.cell_scales) * config.grid_size**2 + config.stop_action
        self.latent_dim_vf = _VALUE_WIDTH

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        return self.forward_actor(features), self.forward_critic(features)

    def forward_actor(self, features: Tensor) -> Tensor:
        logits: Tensor = self.places(features.unflatten(1, self.shape))
        return logits

    def forward_critic(self, features: Tensor) -> Tensor:
        maps = features.unflatten(1, self.shape)[:, : self.channels]
        value: Tensor = self.value(pooled(maps))
        return value


class CanvasPolicy(ActorCriticPolicy):
    """Actor-critic on CanvasFeatures; its two kinds differ in how they name a place.

    channels: width of the feature maps. cell_scales: those of the environment's cell actions.
    sums_crops: whether a logit adds up what its crop shows (see PlaceLogits).
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        lr_schedule: Schedule,
        channels: int = 48,
        cell_scales: Sequence[float] = (),
        sums_crops: bool = False,
        **kwargs: Any,
    ) -> None:
        assert isinstance(observation_space, spaces.Dict)
        self.config = NetworkConfig.for_spaces(
            observation_space,
            action_space,
            channels=channels,
            cell_scales=cell_scales,
            sums_crops=sums_crops,
        )
        super().__init__(
            observation_space,
            action_space,
            lr_schedule,
            net_arch={"pi": [BoxNetwork.HIDDEN], "vf": [_VALUE_WIDTH]},
            features_extractor_class=CanvasExtractor,
            features_extractor_kwargs={"config": self.config},
            **kwargs,
        )

    @property
    def extractor(self) -> CanvasExtractor:
        assert isinstance(self.features_extractor, CanvasExtractor)
        return self.features_extractor

    def network(self) -> PolicyNetwork:
        """A copy of what acts, on the CPU: what a saved policy holds."""
        raise NotImplementedError

    def _get_constructor_parameters(self) -> dict[str, Any]:
        data = super()._get_constructor_parameters()
        del data["features_extractor_class"], data["features_extractor_kwargs"]
        del data["net_arch"], data["activation_fn"]
        config = self.config
        return {
            **data,
            "channels": config.channels,
            "cell_scales": list(config.cell_scales),
            "sums_crops": config.sums_crops,
        }


class CellPolicy(CanvasPolicy):
    """For `action="cell"`: a categorical over a map of places and scales, and where the action
    space has it over stopping, too.

    Raises ValueError where the actions are not those of `cell_scales`.
    """

    def network(self) -> CellNetwork:
        network = PolicyNetwork.build(self.config)
        assert isinstance(network, CellNetwork)
        network.features.load_state_dict(self.extractor.maps.state_dict())
        network.places.load_state_dict(self.heads.places.state_dict())
        return network.cpu().eval()

    @property
    def heads(self) -> PlaceHeads:
        heads = self.mlp_extractor
        assert isinstance(heads, PlaceHeads)
        return heads

    def _build(self, lr_schedule: Schedule) -> None:
        heads = PlaceHeads(self.config, shape=self.extractor.shape)
        self.mlp_extractor = heads  # type: ignore[assignment]
        self.action_net = nn.Identity()  # the head's logits are the distribution's already
        self.value_net = nn.Linear(heads.latent_dim_vf, 1)
        self.optimizer = self.optimizer_class(  # type: ignore[call-arg]
            self.parameters(), lr=lr_schedule(1), **self.optimizer_kwargs
        )

    def _predict(self, observation: Any, deterministic: bool = False) -> Tensor:
        if not deterministic:
            return super()._predict(observation, deterministic)
        logits, _ = self.map_and_value(observation)
        return most_probable(logits, stop_action=self.config.stop_action)

    def map_and_value(self, observations: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Logits float32 [B, actions] before any normalisation, that of stopping last where there
        is one, and values float32 [B]."""
        features = self.extract_features(observations)
        latent_pi, latent_vf = self.mlp_extractor(features)
        return latent_pi, self.value_net(latent_vf)[:, 0]


class GaussianPolicy(CanvasPolicy):
    """For the Box action, for comparison: a Gaussian over (row, col, zoom) and, where the action
    space has it, whether to stop."""

    def network(self) -> BoxNetwork:
        network = PolicyNetwork.build(self.config)
        assert isinstance(network, BoxNetwork)
        network.features.load_state_dict(self.extractor.maps.state_dict())
        network.hidden.load_state_dict(self.mlp_extractor.policy_net[0].state_dict())
        network.mean.load_state_dict(self.action_net.state_dict())
        return network.cpu().eval()
