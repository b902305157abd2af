"""The languages of a run: what it translates between, and what it only watches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import langcodes
from preflight import PreflightError

from neuronxa_callback.text.languages import PairsError, check_language, language_name


@dataclass(frozen=True)
class Languages:
    """The languages of a run, as FLORES-200 codes.

    Attributes:
        source: the pivot, one side of every pair.
        targets: the languages that are trained on, beside the source.
        controls: languages that are watched beside the source and not trained on.
    """

    source: str
    targets: tuple[str, ...]
    controls: tuple[str, ...] = ()

    @property
    def trained(self) -> tuple[str, ...]:
        """The languages that are trained on, the source first."""
        return (self.source, *self.targets)

    @property
    def watched(self) -> tuple[str, ...]:
        """The languages that are watched beside the source."""
        return (*self.targets, *self.controls)

    @property
    def trained_pairs(self) -> tuple[str, ...]:
        """The names of the language pairs that are trained on and translated: "eng_Latn-isl_Latn"."""
        return tuple(f"{self.source}-{target}" for target in self.targets)

    @property
    def described(self) -> str:
        """The English names of the trained languages: "English, French and German"."""
        *first, last = map(language_name, self.trained)
        return f"{', '.join(first)} and {last}"


def of(source: str, target: str | None, targets: Sequence[str] | None, controls: Sequence[str] | None) -> Languages:
    """Return the languages that the settings name.

    Args:
        source: the pivot.
        target: one target, or None if `targets` names several.
        targets: several targets, or None if `target` names one.
        controls: languages that are watched and not trained on, or None.

    Raises:
        PreflightError: no target, both kinds of targets, an unknown code, or a language twice.
    """
    if bool(target) == bool(targets):
        raise PreflightError(
            "Give --target_lang with one language such as isl_Latn, or --target_langs with several; "
            f"{'both were' if target else 'neither was'} given."
        )
    found = Languages(source, tuple(targets or [str(target)]), tuple(controls or ()))
    named = (found.source, *found.watched)
    for code in named:
        try:
            check_language(code)
        except PairsError as error:
            raise PreflightError(f"The languages cannot be used: {error}") from None
    twice = next((code for code in named if named.count(code) > 1), None)
    if twice:
        raise PreflightError(f"{twice} was given twice; name each language once, as source, target or control.")
    return found


def short(code: str) -> str:
    """Return the code by which OPUS, ParaCrawl and the hub's cards name a language: "is" for "isl_Latn"."""
    return str(langcodes.get(code).language)


def filled(text: str, code: str) -> str:
    """Return the name of a training text with the target's code in the place of {lang}."""
    return text.replace("{lang}", code)
