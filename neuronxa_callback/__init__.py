"""Cross-lingual alignment (NeuronXA) measured inside Hugging Face fine-tuning runs."""

from neuronxa_callback.callback import NeuronXACallback
from neuronxa_callback.encoder import encode
from neuronxa_callback.evaluator import AlignmentReport, NeuronXAEvaluator
from neuronxa_callback.pairs import ParallelPairs
from neuronxa_callback.scores import alignment_score

__all__ = [
    "AlignmentReport",
    "NeuronXACallback",
    "NeuronXAEvaluator",
    "ParallelPairs",
    "alignment_score",
    "encode",
]
