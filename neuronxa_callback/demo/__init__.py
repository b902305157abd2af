"""`neuronxa demo`: a real 4-bit LoRA fine-tuning run that watches alignment, on the embedded data."""

import logging

# When transformers imports bitsandbytes, it warns of missing kernels for bfloat16. The demo does not use bfloat16 on a
# CPU. The filter must be in place before that import.
logging.getLogger("bitsandbytes.backends.cpu.ops").addFilter(
    lambda record: not record.getMessage().startswith("Failed to load CPU gemm_4bit_forward")
)
