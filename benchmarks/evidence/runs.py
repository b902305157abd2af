"""The runs of the evidence: what each asks, and the commands that make it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
CONFIGS = Path("recipes/configs/evidence")
RUNS = Path("runs/evidence")
RESULTS = ROOT / "docs" / "results"


@dataclass(frozen=True)
class Run:
    """A run of the evidence.

    Attributes:
        name: the name of its configuration, of its folder in runs/evidence/ and of its folder in docs/results/.
        question: what the run asks.
        recipe: the script.
        data: the text that it needs, "multi30k" or "icelandic".
        minutes: how long it took, without `checkpoints`; None if nobody has run it.
        machine: what it took that long on.
        after: the run whose merged model it begins with; None if it begins with a published model.
    """

    name: str
    question: str
    recipe: str
    data: str
    minutes: int | None = None
    machine: str = "two cores"
    after: str | None = None

    @property
    def output_dir(self) -> Path:
        """Where the recipe leaves the run."""
        return RUNS / self.name

    @property
    def result(self) -> Path:
        """Where the run is recorded."""
        return RESULTS / self.name

    @property
    def is_recorded(self) -> bool:
        """Whether the run is recorded."""
        return (self.result / "neuronxa" / "scores.jsonl").is_file()

    @property
    def commands(self) -> list[list[str]]:
        """The commands that make the run, apart from its text."""
        python = ["python", f"recipes/{self.recipe}.py", "--config", f"{CONFIGS}/{self.name}.yaml"]
        return [python, ["python", "-m", "benchmarks.evidence.checkpoints", self.name]]


ALL = (
    Run(
        "french-sft",
        "Does alignment follow translation in the recipe as it is meant, a 4-bit LoRA on English-French captions?",
        "translation_sft",
        "multi30k",
        minutes=67,
    ),
    Run(
        "gemma-french-sft",
        "The same with a model that knows French: Gemma 3 270M. It needs `make model-gemma`.",
        "translation_sft",
        "multi30k",
        minutes=5,
        machine="an H200",
    ),
    Run(
        "german-diverging",
        "Does the curve show that a run goes wrong, at a learning rate at which it diverges, and before chrF shows it?",
        "translation_sft",
        "multi30k",
        minutes=48,
    ),
    Run(
        "french-spoilt",
        "Does alignment turn before translation does, when a run repeats 40 pairs for 30 epochs?",
        "translation_sft",
        "multi30k",
        minutes=43,
    ),
    Run(
        "french-repeated-wrong-tokens",
        "The same with 1,000 pairs for 30 epochs. The record is of Gemma 3 270M with a tokenizer that is not Gemma's.",
        "translation_sft",
        "multi30k",
        minutes=8,
        machine="half of an H200",
    ),
    Run(
        "french-cpt",
        "Does alignment rise in continued pretraining on French?",
        "translation_cpt",
        "multi30k",
        minutes=37,
    ),
    Run(
        "french-cpt-sft",
        "Does it go on in the fine-tuning that follows, as in Fig. 3 b?",
        "translation_sft",
        "multi30k",
        minutes=43,
        after="french-cpt",
    ),
    Run(
        "icelandic-gemma",
        "Does it rise for Icelandic, with a model that knows some? It needs `make model-gemma`.",
        "translation_sft",
        "icelandic",
        minutes=64,
    ),
    Run(
        "icelandic-wrong-tokens",
        "The same, longer. The record is of Gemma 3 270M with a tokenizer that is not Gemma's.",
        "translation_sft",
        "icelandic",
        minutes=7,
        machine="half of an H200",
    ),
)


def named(name: str) -> Run:
    """Return a run by its name.

    Raises:
        SystemExit: there is none.
    """
    found = next((run for run in ALL if run.name == name), None)
    if found is None:
        raise SystemExit(f"{name} is no run of the evidence; choose one of {', '.join(run.name for run in ALL)}.")
    return found
