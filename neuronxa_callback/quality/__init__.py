"""The model's own translations and the quality metrics that score them."""
