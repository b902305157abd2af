"""A model measured over many languages, outside training."""
