"""The second stage: a network that learns masks from the maps of the training images."""
