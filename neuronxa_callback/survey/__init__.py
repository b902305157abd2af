"""Measurements of a model over many languages, outside training."""
