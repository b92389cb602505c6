"""Commands that train: of `canvit-gym`, and of `python -m canvit_gym.training` for torchrun."""
