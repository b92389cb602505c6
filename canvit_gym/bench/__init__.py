"""How fast it is: `python -m canvit_gym.bench` runs both benchmarks.

`bench.model` times one forward beside the reference implementation's, `bench.env` a step of a
vector environment and its parts.
"""
