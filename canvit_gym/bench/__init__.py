"""How fast it is: `python -m canvit_gym.bench` runs all benchmarks.

`bench.model` times one forward beside the reference implementation's, `bench.env` a step of a
vector environment and its parts, `bench.scenes` the reading of pictures beside torchvision's.
"""
