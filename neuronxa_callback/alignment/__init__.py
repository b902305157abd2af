"""Alignment: encode sentences, score their representations, and report the scores."""
