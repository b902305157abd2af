"""`neuronxa demo`: a real 4-bit LoRA fine-tuning run on the embedded data, with alignment watched."""

import logging

# bitsandbytes warns when transformers imports it: it misses kernels for bfloat16, which the demo does not use on a CPU.
# The filter has to be there before that import.
logging.getLogger("bitsandbytes.backends.cpu.ops").addFilter(
    lambda record: not record.getMessage().startswith("Failed to load CPU gemm_4bit_forward")
)
