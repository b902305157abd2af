"""Make the golden files: what the package writes of tiny models, before its code is reorganised.

`python -m tests.golden.make` writes them anew beside this file. tests/test_golden.py makes them again in another folder
and compares. They are to be made anew only where a number is meant to change.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Sequence
from contextlib import chdir
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from neuronxa_callback import NeuronXACallback, NeuronXAEvaluator, ParallelPairs, Quality, StoppingRule
from neuronxa_callback.cli import app
from neuronxa_callback.model.decoder import Decoder
from neuronxa_callback.quality.evaluator import QualityEvaluator
from tests.support import make_tokenizer, sft, tiny_llama

GOLDEN = Path(__file__).parent
CPU = "AVX512"  # the instruction set that the golden files were made with
PAIRS_FILE = GOLDEN / "pairs.tsv"  # short sentences with words in common, so that random weights align some
RUN = "run/neuronxa/scores.jsonl"
SWEEP = "sweep/neuronxa/scores.jsonl"
SURVEY = ("survey/scores.jsonl", "survey/retrieval.jsonl", "survey/matrix.jsonl")
SIGNATURES = "signatures.json"

ALIGNMENT_OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {"methods": "nasca"},
    "all methods": {
        "methods": ("nasca", "navca", "mexa", "cka", "svcca", "anc", "sads"),
        "representations": {"sads": "nav"},
        "permutations": 9,
    },
    "chosen layers": {"methods": ("nasca", "navca"), "layers": (3, 1)},
    "greatest layer": {"methods": ("nasca", "mexa"), "layer_pooling": "max"},
    "greatest of chosen layers": {"methods": "nasca", "layer_pooling": "max", "layers": (2,)},
    "representations": {"methods": ("cka", "anc", "nasca"), "representations": {"cka": "nav"}, "permutations": 0},
    "representations and permutations": {
        "methods": ("sads", "cka"),
        "representations": {"sads": "embedding", "cka": "nas"},
        "permutations": 9,
        "token_pooling": "average",
    },
    "permutations of a share": {"methods": "nasca", "permutations": 9, "token_pooling": "last"},
}
TRANSLATION_OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "template": {"prompt": "{source_language} to {target_language}: {source}\n"},
    "function": {"prompt": lambda source, source_lang, target_lang: f"{source} {source_lang} {target_lang}"},
}


class WordCount:
    """A metric of the user's own: one number for each translation."""

    name = "words"

    def score(self, sources: Sequence[str], translations: Sequence[str], references: Sequence[str]) -> list[float]:
        return [float(len(text.split())) for text in translations]


def neuronxa(*arguments: Any) -> None:
    """Run a command of the command line."""
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if done.exit_code != 0:
        raise RuntimeError(done.output + done.stderr) from done.exception


def make_run(folder: Path) -> None:
    """A run of SFTTrainer that is watched in two languages, with a stopping rule and a floor."""
    callback = NeuronXACallback(
        [ParallelPairs.load(f"eng_Latn-{code}", n=10) for code in ("isl_Latn", "fra_Latn")],
        methods=("nasca", "navca", "mexa", "cka"),
        eval_steps=2,
        quality=Quality(("chrf", WordCount()), direction="both"),
        stopping=StoppingRule(3, floor={"isl_Latn": 0.0, "fra_Latn": 0.5}, stop_at_floor=False),
        on_error="raise",
    )
    sft(folder / "run", [callback], learning_rate=3e-2).train()


def make_sweep(folder: Path) -> None:
    """Checkpoints of a run that nobody watched, scored by `neuronxa sweep`, the untrained model as step 0."""
    with chdir(folder):
        tiny_llama().save_pretrained("base")
        make_tokenizer().save_pretrained("base")
        sft(Path("sweep"), [], max_steps=4, learning_rate=3e-2, save_strategy="steps", save_steps=2).train()
        neuronxa(
            *("sweep", "sweep", "--base", "base", "--pairs", PAIRS_FILE, "--methods", "nasca,cka"),
            *("--quality", "chrf,bleu", "--direction", "both", "--dtype", "float32", "--device", "cpu"),
        )


def make_survey(folder: Path) -> None:
    """The lines of `neuronxa score`, `retrieve` and `matrix`; their keys name the model's folder, a relative one."""
    with chdir(folder):
        tiny_llama().save_pretrained("model")
        make_tokenizer().save_pretrained("model")
        common = ("model", "--n", 10, "--device", "cpu", "--output", "survey")
        two = ("--langs", "isl_Latn,fra_Latn")
        methods = ("--methods", "nasca,mexa,cka,sads")
        reads = ("--representation", "sads=nav")
        neuronxa("score", *common, *two, *methods, *reads, "--permutations", 19)
        neuronxa(
            *("score", *common, *two, *methods, *reads, "--layers", "1,3"),
            *("--representation", "cka=nav", "--permutations", 9),
        )
        neuronxa("score", *common, *two, "--methods", "nasca", "--layer-pooling", "max", "--token-pooling", "last")
        neuronxa("retrieve", *common, *two, "--representations", "embedding,nas,nav")
        neuronxa("retrieve", *common, *two, "--layer-pooling", "mean", "--layers", "2")
        neuronxa("matrix", *common, "--langs", "eng_Latn,isl_Latn,fra_Latn", "--methods", "nasca,cka")


def make_signatures(folder: Path) -> None:
    """The signatures of alignment, translations and metrics, by the options that they are made with."""
    model, tokenizer = tiny_llama().eval(), make_tokenizer()
    pairs = ParallelPairs.load("eng_Latn-isl_Latn", n=3)
    alignment = {
        name: NeuronXAEvaluator(pairs, **options)(model, tokenizer).signature
        for name, options in ALIGNMENT_OPTIONS.items()
    }
    translation: dict[str, str] = {}
    metrics: dict[str, str] = {}
    for name, options in TRANSLATION_OPTIONS.items():
        with QualityEvaluator(("chrf", "bleu", WordCount()), [pairs], "both", **options) as quality:
            report = quality.score(quality.translate(Decoder.find(model, tokenizer)))
        for direction, scores in report.by_direction.items():
            translation[f"{name} {direction}"] = str(scores.signature)
            metrics |= {
                f"{metric} {direction}": str(future.result().signature) for metric, future in scores.scores.items()
            }
    signatures = {"alignment": alignment, "translation": translation, "metrics": metrics}
    text = json.dumps(signatures, ensure_ascii=False, indent=1) + "\n"
    (folder / SIGNATURES).write_text(text, encoding="utf-8")


def main() -> None:
    """Make all of them, and keep nothing else of what the models left."""
    with tempfile.TemporaryDirectory() as made:
        for make in (make_run, make_sweep, make_survey, make_signatures):
            make(Path(made))
        for name in (RUN, SWEEP, *SURVEY, SIGNATURES):
            (GOLDEN / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(Path(made) / name, GOLDEN / name)


if __name__ == "__main__":
    main()
