"""How bright is each place of a night? Importing this registers `Lanterns-v0`."""

import gymnasium as gym

gym.register(
    "Lanterns-v0",
    entry_point="lanterns.setting:env",
    vector_entry_point="lanterns.setting:vector_env",
)
