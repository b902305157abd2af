"""Measure a model for the table. Every line is on disk as soon as it is done, and the same call goes on."""

from __future__ import annotations

from pathlib import Path

from rich.progress import Progress

from benchmarks.table3.alignment import alignment_lines
from benchmarks.table3.data import Text, shared_text
from benchmarks.table3.records import SETTINGS, AlignmentLine, TextLine
from benchmarks.table3.text import text_line
from neuronxa_callback import __version__
from neuronxa_callback.files import append_record, read_records
from neuronxa_callback.model.decoder import Decoder
from neuronxa_callback.model.state import TokenBudget
from neuronxa_callback.signature import Signature
from neuronxa_callback.survey.knowledge.measure import measure as measure_knowledge
from neuronxa_callback.survey.knowledge.prompts import Prompts
from neuronxa_callback.survey.measure import ModelChoice

TEXT, SCORES = "text.jsonl", "scores.jsonl"


def measure(model: Path, prompts: Prompts, ntrex: Path, facts: int, folder: Path, progress: Progress) -> None:
    """Measure knowledge, tokens, loss and alignment of the languages that both texts have.

    Args:
        model: the model's folder, whose name names it. It is read in float32.
        prompts: BMLAMA-53.
        ntrex: the folder with NTREX-128's files.
        facts: how many facts, from the first on.
        folder: where the lines are, or will be.
        progress: shows a task for each of the three.

    Raises:
        PromptsError: the prompts cannot be used.
        PairsError: the sentences cannot be used.
    """
    text = shared_text(ntrex, prompts.languages)
    choice = ModelChoice(str(model), dtype="float32")
    measure_knowledge(choice, prompts, list(text.sentences), facts, folder, progress)
    key = choice.identity.joined(Signature.of(data=text.fingerprint, version=__version__))
    with choice.loaded() as loaded:
        decoder = Decoder.find(*loaded)
        with decoder.evaluation_mode():
            _measure_text(decoder, model.name, text, folder / TEXT, key, progress)
            _measure_alignment(decoder, model.name, text, folder / SCORES, key, progress)


def _measure_text(decoder: Decoder, model: str, text: Text, path: Path, key: Signature, progress: Progress) -> None:
    done = {line.lang for line in read_records(path, TextLine) if line.key == key}
    task = progress.add_task("loss", total=len(text.sentences), completed=len(done))
    budget = TokenBudget()
    for lang, sentences in text.sentences.items():
        if lang not in done:
            append_record(path, text_line(decoder, model, lang, sentences, key, budget))
            progress.advance(task)


def _measure_alignment(
    decoder: Decoder, model: str, text: Text, path: Path, key: Signature, progress: Progress
) -> None:
    done = {(line.lang, line.setting) for line in read_records(path, AlignmentLine) if line.key == key}
    total = sum(lang != setting.pivot for lang in text.sentences for setting in SETTINGS)
    task = progress.add_task("alignment", total=total, completed=len(done))
    for line in alignment_lines(decoder, model, text.sentences, done, key, TokenBudget()):
        append_record(path, line)
        progress.advance(task)
