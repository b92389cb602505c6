"""canvit-gym: learn where CanViT looks.

Importing this package registers the environment ids with Gymnasium and loads nothing heavy.
"""

from canvit_gym.registration import register_environments

register_environments()
