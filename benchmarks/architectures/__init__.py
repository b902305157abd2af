"""What is read of every causal language model of the installed transformers, tried on tiny random models."""
