"""Tasks: what is asked of a scene, and how well a state answers it."""
