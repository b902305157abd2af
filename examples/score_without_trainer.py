"""Score a model once, with all three methods.

python examples/score_without_trainer.py MODEL [eng_Latn-isl_Latn ...]
"""

import sys

from transformers import AutoModelForCausalLM, AutoTokenizer

from neuronxa_callback import NeuronXAEvaluator
from neuronxa_callback.model.decoder import Decoder


def main(model_name: str, *pairs: str) -> None:
    model = AutoModelForCausalLM.from_pretrained(model_name, dtype="auto")
    tokenizer = AutoTokenizer.from_pretrained(model_name)
    evaluator = NeuronXAEvaluator(list(pairs) or "eng_Latn-isl_Latn", methods=("nasca", "navca", "mexa"))
    decoder = Decoder.find(model, tokenizer)
    evaluator.check(decoder)
    for name, report in evaluator.score(decoder).by_language.items():
        for method, score in report.score.items():
            low, high = report.ci[method]
            by_chance = f"chance {report.chance[method]:.4f}, p {report.p_value[method]:.2g}"
            print(f"{name} {method:5} {score:.4f}  95 % {low:.4f} to {high:.4f}  {by_chance}")
        print(report.signature)


if __name__ == "__main__":
    main(*sys.argv[1:])
