"""The BMLAMA-53 column of the paper's Table 3 redone: alignment against knowledge over languages."""
