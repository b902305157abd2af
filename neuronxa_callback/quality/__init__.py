"""The model's own translations, and how good quality metrics say they are."""
