"""Try an installed neuronxa-callback: a tiny model made on the spot is scored, and the package's files are read.

python scripts/smoke.py FOLDER

FOLDER is where the package must be installed, so that a copy elsewhere is not tried in its place. Run it outside the
repository. It needs what the bare package depends on alone, no model hub and no extra.
"""

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import neuronxa_callback
from neuronxa_callback import NeuronXACallback, NeuronXAEvaluator, ParallelPairs
from neuronxa_callback.text.embedded import embedded

PAIR = "eng_Latn-isl_Latn"


def tiny_model() -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """Return a Llama of two layers with random weights, and a tokenizer of single bytes."""
    alphabet = {byte: number for number, byte in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    alphabet["<pad>"] = len(alphabet)
    backend = Tokenizer(models.BPE(alphabet, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>")
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=len(alphabet), **sizes)).eval(), tokenizer


def main(folder: str) -> None:
    place = Path(neuronxa_callback.__file__).resolve()
    assert place.is_relative_to(Path(folder).resolve()), f"{place} was imported, not what lies in {folder}"
    assert neuronxa_callback.__version__ == version("neuronxa-callback")
    for name in ("py.typed", "data/comet-requirements.txt", "data/LICENSE"):
        assert (place.parent / name).is_file(), name
    assert embedded("demo_train.tsv")
    pairs = ParallelPairs.load(PAIR)
    assert len(pairs) == 100
    report = NeuronXAEvaluator(pairs)(*tiny_model())
    assert 0 <= report.score["nasca"] <= 1
    assert report.signature.endswith(f"version:{neuronxa_callback.__version__}")
    NeuronXACallback(PAIR)
    for arguments in (["--help"], ["demo", "--help"], ["score", "--help"]):
        subprocess.run([sys.executable, "-m", "neuronxa_callback", *arguments], check=True, stdout=subprocess.DEVNULL)
    print(f"neuronxa-callback {neuronxa_callback.__version__}: NASCA {report.score['nasca']:.4f}, {report.signature}")


if __name__ == "__main__":
    main(*sys.argv[1:])
