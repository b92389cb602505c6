"""The id."""

from canvit_gym.envs.make import EnvFactory, Setting
from canvit_gym.geometry import GlimpseSpec
from canvit_gym.model.identity import identify_model
from lanterns.model import MosaicModel
from lanterns.scenes import Nights
from lanterns.task import Brightness


def lanterns(*, split="train", device="cpu"):
    model = MosaicModel().to(device)
    return Setting(
        scenes=Nights(split),
        task=Brightness(model=model, grid=8),
        backbone=identify_model(model),
        glimpse=GlimpseSpec(glimpse_size_px=4, canvas_grid_size=8, min_scale=0.25),
    )


env = EnvFactory("Lanterns-v0", lanterns)
vector_env = env.vector
