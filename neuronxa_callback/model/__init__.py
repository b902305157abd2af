"""A decoder as this package reads it: its FFN neurons, its state, and how it is loaded."""
