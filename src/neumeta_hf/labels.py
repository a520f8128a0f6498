"""What labels mean."""

IGNORED = 255
"""Label of pixels that belong to no class, in masks and to every loss: transformers' usual `loss_ignore_index`."""
