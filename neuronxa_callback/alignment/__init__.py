"""Sentences to representations, representations to alignment scores, scores to a report."""
