"""What the pages of a run say of the translations of one evaluation beside their scores."""

from __future__ import annotations

from neuronxa_callback.tables import markdown_table
from neuronxa_callback.text.languages import is_language
from neuronxa_callback.text.recognition import can_recognise
from neuronxa_callback.training.records import DirectionQuality, Evaluation

HEADER = ("direction", "sentences", "empty", "cut at their length limit", "copied", "off target", "length")
READING = (
    "Copied is chrF of the translations against their sources. It is 100 where the sources were left as they were, and "
    "not 0 where they were translated, because names and related words are alike in both languages. Off target is the "
    "share of the translations that py3langid takes for another language than the target's, among those with 20 "
    "letters or more. Length is the characters of all translations over those of all references."
)


def translations_part(evaluation: Evaluation) -> list[str]:
    """Return the table of an evaluation's translations, a row a direction, in Markdown."""
    table = markdown_table(HEADER, translation_rows(evaluation))
    return [f"## Translations at step {evaluation.step}", table, READING]


def translation_rows(evaluation: Evaluation) -> list[list[str]]:
    """Return a row below `HEADER` for each direction."""
    return [[name, *_counts(made), *_faithfulness(name, made)] for name, made in evaluation.quality.items()]


def _counts(made: DirectionQuality) -> list[str]:
    return [str(count) for count in (len(made.translations), made.empty, made.truncated)]


def _faithfulness(name: str, made: DirectionQuality) -> list[str]:
    found = made.faithfulness
    if found is None:
        return ["– (not measured)", "", ""]
    share = _why_none(name) if found.off_target is None else f"{found.off_target:.3f}"
    return [f"{found.copied:.1f}", share, f"{found.length:.2f}"]


def _why_none(name: str) -> str:
    """Return why a direction's translations are not known to be in another language or not."""
    target = name.partition("-")[2]
    # The name comes from a file, and only codes of languages can be looked up.
    known = is_language(target) and can_recognise(target)
    return "– (every translation is too short)" if known else "– (py3langid does not know the language)"
