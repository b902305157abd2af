"""What a model scores on XNLI's test set: a line for each language, the table, and the file for neuronxa correlate."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from xnli_data import ENGLISH, LABELS, Example

from neuronxa_callback.files import Record
from neuronxa_callback.signature import Signature, SignatureText
from neuronxa_callback.significance import bootstrap_interval, layer_interval
from neuronxa_callback.tables import Cell, Table

FILE = "xnli.jsonl"
NOTE = (
    "The label is read from the probabilities of the three labels' first tokens, where the model begins its answer. "
    'Intervals are Wilson\'s, over test examples. Chance is 1/3. "on labels" is the probability that the model puts on '
    "the three tokens together. The languages have the same examples."
)


class XnliLine(Record):
    """The test in one language.

    Attributes:
        lang: FLORES-200 code.
        accuracy: the share of examples whose right label is the likeliest of the three.
        ci: its 95 % interval (Wilson).
        confusion: for each right label, how often each label was given.
        mass: the mean probability of the three labels' first tokens together.
        key: the weights, the data and the prompt.
    """

    CALLED: ClassVar[str] = "a line of recipes/transfer_xnli.py"

    lang: str
    accuracy: float
    ci: tuple[float, float]
    confusion: list[list[int]]
    mass: float
    key: SignatureText

    @property
    def n(self) -> int:
        """The number of examples."""
        return sum(map(sum, self.confusion))


def line_of(lang: str, examples: Sequence[Example], probabilities: NDArray[np.float64], key: Signature) -> XnliLine:
    """Return the line of a language, given each example's probabilities (examples, labels)."""
    given = probabilities.argmax(axis=1)
    confusion = np.zeros((len(LABELS), len(LABELS)), dtype=int)
    np.add.at(confusion, ([example.label for example in examples], given), 1)
    accuracy = float(np.trace(confusion) / len(examples))
    return XnliLine(
        lang=lang,
        accuracy=accuracy,
        ci=layer_interval(accuracy, len(examples)),
        confusion=confusion.tolist(),
        mass=float(probabilities.sum(axis=1).mean()),
        key=key,
    )


def table_of(lines: Sequence[XnliLine], model: str) -> Table:
    """Return a row for each language, and the mean of the languages that the model was not trained on."""
    english = next((line.accuracy for line in lines if line.lang == ENGLISH), None)
    rows: list[list[Cell]] = []
    for line in lines:
        gap = None if english is None or line.lang == ENGLISH else line.accuracy - english
        rows.append([line.lang, line.n, line.accuracy, *line.ci, gap, line.mass])
    notes = [NOTE]
    others = [line.accuracy for line in lines if line.lang != ENGLISH]
    if len(others) > 1:
        low, high = bootstrap_interval(others)
        notes.append(
            f"The mean of the {len(others)} languages that were not trained on is {fmean(others):.4f}, with a "
            f"bootstrap interval over languages from {low:.4f} to {high:.4f}."
        )
    columns = ["language", "n", "accuracy", "low", "high", "against English", "on labels"]
    return Table(f"XNLI after training on English: {model}", columns, rows, notes)


def write_csv(path: Path, lines: Sequence[XnliLine]) -> None:
    """Write the accuracies as neuronxa correlate reads them. Without a model's name they fit any model's scores."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["task", "lang", "value"])
        writer.writerows(["xnli", line.lang, line.accuracy] for line in lines)
