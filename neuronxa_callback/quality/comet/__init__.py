"""COMET in its own environment and its own process."""
