"""canvit-gym: learn where CanViT looks."""
