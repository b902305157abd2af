"""Languages: their codes, their names, and the lists of languages of the paper and its benchmarks."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import langcodes

from neuronxa_callback.text.embedded import data_file

_CODE = re.compile("[a-z]{3}_[A-Z][a-z]{3}")  # ISO 639-3 and ISO 15924, as FLORES-200 writes them
# Codes that differ in FLORES+ and FLORES-200. The paper's lists of languages use those of FLORES-200.
FLORES_PLUS = {"cmn_Hans": "zho_Hans", "cmn_Hant": "zho_Hant", "ekk_Latn": "est_Latn", "fil_Latn": "tgl_Latn"}
_SCRIPT_NAMES = {"Hans": "Simplified", "Hant": "Traditional"}  # as FLORES-200 has them


class PairsError(ValueError):
    """Held-out pairs that cannot be used; the message names the place and the remedy in one sentence."""


@cache
def language_codes() -> frozenset[str]:
    """Return the language codes of FLORES-200."""
    return frozenset(_language_names())


def is_language(name: str) -> bool:
    """Return whether a name is a language code.

    It is one if FLORES-200 has it, or if it has the same form and the language and script are known ("kal_Latn").
    """
    # Columns and files have all kinds of names. Only those of this form are looked up in the registry.
    return name in language_codes() or bool(_CODE.fullmatch(name) and langcodes.tag_is_valid(name))


@cache
def head_languages() -> frozenset[str]:
    """Return the paper's 68 head languages in FLORES-200 (appendix A.1); the others are long-tail."""
    return frozenset(data_file("head_languages.txt").split())


@cache
def tatoeba_languages() -> dict[str, str]:
    """Map the names of Tatoeba's 112 languages in LASER's test sets to our codes: "isl" -> "isl_Latn"."""
    return {name: code for name, code, _ in _tatoeba()}


@cache
def tatoeba_head_languages() -> frozenset[str]:
    """Return the codes that the paper lists as head languages in Tatoeba (appendix A.1).

    The paper speaks of 36 head languages but lists 42. One of these is English; the other 41 are returned.
    """
    return frozenset(code for _, code, group in _tatoeba() if group == "head")


def _tatoeba() -> Iterator[list[str]]:
    return (line.split("\t") for line in data_file("tatoeba_languages.tsv").splitlines())


@cache
def harness_languages() -> dict[str, str]:
    """Map the two-letter codes in lm-evaluation-harness's task names to FLORES-200 codes."""
    return dict(line.split("\t") for line in data_file("harness_languages.tsv").splitlines())


def language_name(code: str) -> str:
    """Return a language's English name, as prompts use it: "Icelandic" for "isl_Latn".

    FLORES-200 has the first word. The Unicode CLDR names the other languages, by way of langcodes. Their names say the
    script if the language is mostly written in another one: "Serbian (Latin script)" for "srp_Latn". A code that has no
    name stays as it is.
    """
    name = _language_names().get(FLORES_PLUS.get(code, code))
    return name or _name_beyond_flores(code)


@cache
def _name_beyond_flores(code: str) -> str:
    if not is_language(code):
        return code
    language = langcodes.get(code)
    name = language.language_name().removesuffix(" (individual language)")
    if name.startswith("Unknown language"):
        return code
    usual, script = langcodes.get(str(language.language)).maximize().script, language.script
    if script == usual:
        return name
    return f"{name} ({_SCRIPT_NAMES.get(str(script)) or f'{language.script_name()} script'})"


@cache
def _language_names() -> dict[str, str]:
    return dict(line.split("\t") for line in data_file("flores200.txt").splitlines())


def check_language(code: str) -> None:
    """Raise PairsError if `code` is not a language code (`is_language`); the message names the nearest ones."""
    if not isinstance(code, str):
        raise PairsError(f"{code!r} is not a FLORES-200 language code such as isl_Latn.")
    if is_language(code):
        return
    near = difflib.get_close_matches(code, sorted(language_codes()), n=3, cutoff=0.5)
    near = near or sorted(known for known in language_codes() if code and known.startswith(code[:2].lower()))[:3]
    hint = f"; the nearest are {', '.join(near)}" if near else ""
    raise PairsError(f"{code!r} is not a FLORES-200 language code such as isl_Latn{hint}.")


def is_language_pair(spec: Any) -> bool:
    """Return whether `spec` looks like two language codes, such as "eng_Latn-isl_Latn", known or not."""
    codes = spec.split("-") if isinstance(spec, str) else []
    return len(codes) == 2 and all(len(code) == 8 and code[3] == "_" for code in codes)


def code_in_name(path: str | Path) -> str | None:
    """Return the language code in a file's name, as in FLORES' "devtest/isl_Latn.devtest", or None."""
    return next((part for part in Path(path).name.split(".") if is_language(part)), None)
