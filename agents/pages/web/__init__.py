"""Pieces that pages share: markup, what is known after a glimpse as pictures and words, the
style."""
