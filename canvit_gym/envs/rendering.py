"""Placeholder."""
def render_episode(episode, *, rollout):
    raise NotImplementedError
