"""The evidence that alignment follows translation, or does not: runs that a command makes, and their tables.

`python -m benchmarks.evidence` lists the runs and rebuilds the table in docs/results/README.md from what is recorded.
"""
