"""Parallel text: languages, held-out pairs, corpora, and held-out sentences in training text."""
