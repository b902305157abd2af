"""A decoder as this package reads it: its FFN neurons, its state, how it is loaded."""
