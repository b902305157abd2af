"""Languages: their codes, their names, and the lists of languages of the paper and its benchmarks."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import langcodes

from neuronxa_callback.text.embedded import data_file

_CODE = re.compile("[a-z]{3}_[A-Z][a-z]{3}")  # ISO 639-3 and ISO 15924, as FLORES-200 writes them
# BCP 47's language, script and region. Behind "_" a region needs capitals, so that a column "is_in" is no Icelandic.
_TAG = re.compile(r"[A-Za-z]{2,3}([-_][A-Za-z]{4})?(-[A-Za-z]{2}|_[A-Z]{2}|[-_]\d{3})?")
_SCRIPTS = {"Kore": "Hang"}  # Korean's usual script in CLDR is Hangul with Han; FLORES-200 calls it Hangul
_TWO_SCRIPTS = frozenset({"zho"})  # languages written in two scripts so often that the code alone does not tell which
_NTREX = re.compile(r"newstest\d+-(?:src|ref(-\d)?)\.([a-z]{3}(?:-[A-Za-z]+)?)\.txt")
COMPRESSED = (".gz", ".bz2", ".xz", ".zst")
_TEXT_ENDINGS = (".txt", ".sgm", ".sgml", ".xml")
# Codes that differ in FLORES+ and FLORES-200. The paper's lists of languages use those of FLORES-200.
FLORES_PLUS = {"cmn_Hans": "zho_Hans", "cmn_Hant": "zho_Hant", "ekk_Latn": "est_Latn", "fil_Latn": "tgl_Latn"}
_NUMBERS = ("id", "no")  # columns that mostly hold numbers, and are Indonesian and Norwegian otherwise
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


def code_of(tag: Any) -> str | None:
    """Return the code that another tag of a language stands for: "isl_Latn" for "is", "is-IS", "isl" and itself.

    The script is the one that the language is usually written in, as Unicode's CLDR says. A code of several languages
    stands for the one that FLORES-200 has: "ar" is "arb_Arab", "no" is "nob_Latn".

    Args:
        tag: a two-letter code, a three-letter code of a language of FLORES-200, or either with a script or a region.

    Returns:
        the code, or None if there is none, or if the tag does not tell the script ("zh"; "zh-CN" and "zh-TW" do).
    """
    if not isinstance(tag, str):
        return None
    return tag if is_language(tag) else _code_of(tag, any_language=False)


def with_region(tag: str) -> str:
    """Return a language's tag with its region in capitals, as `code_of` needs it: "pt-BR" for "pt-br".

    BCP 47 knows no case. But in the name of a column or file, "en-is" is two languages, so only tags from elsewhere may
    be changed so.
    """
    return re.sub(r"(?<=[-_])[A-Za-z]{2}\Z", lambda region: region[0].upper(), tag)


@cache
def _code_of(tag: str, any_language: bool) -> str | None:
    if not _TAG.fullmatch(tag) or not langcodes.tag_is_valid(tag) or _is_two_languages(tag):
        return None
    language = _alpha3(tag)
    if language is None or (len(tag) == 3 and not any_language and language not in _languages()):
        return None
    asked = langcodes.get(tag)
    if language in _TWO_SCRIPTS and not (asked.script or asked.territory):
        return None
    script = str(asked.maximize().script)
    code = f"{language}_{_SCRIPTS.get(script, script)}"
    return code if is_language(code) else None


@cache
def _usual() -> dict[str, str]:
    """Map codes that stand for several languages to the one that FLORES-200 has: "ara" -> "arb"."""
    return dict(line.split("\t") for line in data_file("macrolanguages.tsv").splitlines())


def _is_two_languages(tag: str) -> bool:
    """Return whether a tag is rather two languages ("en-is") than a language and a region ("en-IS", "en-us")."""
    first, _, second = tag.partition("-")
    return len(second) == 2 and second.islower() and second != first and langcodes.tag_is_valid(second)


def _alpha3(tag: str) -> str | None:
    try:
        language = langcodes.get(tag, normalize=False).to_alpha3()  # normalised, "prs" would become "fa"
    except LookupError:
        return None
    return _usual().get(language, language)


@cache
def _languages() -> frozenset[str]:
    return frozenset(code[:3] for code in language_codes()) | frozenset(_usual())


def may_be(tag: Any, code: str) -> bool:
    """Return whether a tag can mean a code: "is" and "is-IS" can mean "isl_Latn", and "zh" either code of Chinese."""
    if code_of(tag) == code:
        return True
    bare = isinstance(tag, str) and len(tag) <= 3 and _TAG.fullmatch(tag) and langcodes.tag_is_valid(tag)
    return bool(bare) and _alpha3(tag) == code[:3]


def language_columns(names: Iterable[Any]) -> dict[str, str]:
    """Return the codes of the columns that are named by a language: {"en": "eng_Latn", "isl_Latn": "isl_Latn"}.

    Other tags than codes (`code_of`) count where fewer than two names are codes. "id" and "no" count only where no
    other two columns are languages or called "source" and "target", since they mostly hold numbers.
    """
    names = list(names)
    codes = {name: name for name in names if isinstance(name, str) and is_language(name)}
    if len(codes) > 1:
        return codes
    tags = {name: code for name in names if (code := code_of(name))}
    numbers = {name for name in tags if name.lower() in _NUMBERS}
    return (
        tags
        if len(tags) < 3 and not {"source", "target"} <= {*names}
        else {n: tags[n] for n in tags if n not in numbers}
    )


def doubtful_columns(names: Iterable[Any]) -> list[str]:
    """Return the columns that make a guess of two others unsafe, where short tags and not codes name a pair.

    In "src, mt, da" the two columns that FLORES-200 has languages for are not the pair, but a machine translation and a
    direct assessment: "src" is a language, too (Sardinian in ISO 639-3).
    """
    names = list(names)
    guessed = language_columns(names)
    if len(guessed) != 2 or all(map(is_language, guessed)):
        return []
    others = [name for name in names if isinstance(name, str) and name not in guessed and name.lower() not in _NUMBERS]
    return [name for name in others if len(name) in (2, 3) and name.isascii() and langcodes.tag_is_valid(name)]


def tag_in_name(path: str | Path) -> str | None:
    """Return the part of a file's name that says its language, or None.

    The part is a code as in FLORES' "devtest/isl_Latn.devtest"; the tag in NTREX' "newstest2019-ref.tgk-Cyrl.txt"; or
    the last part, as in OPUS' "Books.en-is.is.gz", in WMT's "newstest2021.en-is.ref.A.is" and in "src.en.sgm".
    """
    name = _uncompressed(path)
    if code := flores_code_in_name(name):
        return code
    if match := _NTREX.fullmatch(name):
        return match[2] if _code_of(match[2], any_language=True) else None
    ending = Path(name).suffix.lower() in _TEXT_ENDINGS
    parts = name.split(".")[: -1 if ending else None]
    return parts[-1] if (ending or len(parts) > 1) and code_of(parts[-1]) else None


def stem_of_tag(path: str | Path) -> str | None:
    """Return the part of a file's name before its tag, "text" of "text.is.gz", or None if the tag is no mere ending.

    Files with other endings look alike ("clean.pl", "lib.so"), so tags that are endings need a common stem.
    """
    tag, name = tag_in_name(path), _uncompressed(path)
    is_ending = tag is not None and not is_language(tag) and "." + tag == Path(name).suffix
    return Path(name).stem if is_ending else None


def _uncompressed(path: str | Path) -> str:
    name = Path(path).name
    return Path(name).stem if Path(name).suffix.lower() in COMPRESSED else name


def code_in_name(path: str | Path) -> str | None:
    """Return the code of the language that a file's name says (`tag_in_name`), or None."""
    tag = tag_in_name(path)
    return tag and (code_of(tag) or _code_of(tag, any_language=True))


def flores_code_in_name(path: str | Path) -> str | None:
    """Return the part of a file's name that is a language code (`is_language`), or None."""
    return next((part for part in Path(path).name.split(".") if is_language(part)), None)


def is_variant(path: str | Path) -> bool:
    """Return whether a file's name says a region ("fra-CA") or, in NTREX, a second reference ("ref-2.spa")."""
    second = _NTREX.fullmatch(Path(path).name)
    tag = tag_in_name(path)
    regional = tag is not None and not is_language(tag) and langcodes.get(tag).territory is not None
    return regional or bool(second and second[1])
