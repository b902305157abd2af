"""The lines of knowledge.jsonl."""

from __future__ import annotations

from typing import ClassVar

from neuronxa_callback.survey.records import MeasuredLine

FILE = "knowledge.jsonl"


class KnowledgeLine(MeasuredLine):
    """A model's answers in one language.

    Attributes:
        data: the prompts' name.
        accuracy: the share of right answers that stand among as many of the most likely candidates as the fact has
            right answers.
        ci: its 95 % interval over such answers (Wilson).
        chance: the accuracy of a ranking at random.
        facts: the facts' numbers in the file, from 1.
        rankings: of each fact the places of its candidates, from 0, the most likely first.
        answers: of each fact the places of its right answers; None where one is no candidate.
    """

    CALLED: ClassVar[str] = "a line of neuronxa knowledge"

    data: str
    accuracy: float
    ci: tuple[float, float]
    chance: float
    facts: list[int]
    rankings: list[list[int]]
    answers: list[list[int | None]]

    @property
    def known(self) -> list[float]:
        """Of each fact the share of its right answers that the model knows."""
        each = zip(self.rankings, self.answers, strict=True)
        return [sum(place in ranking[: len(right)] for place in right) / len(right) for ranking, right in each]
