"""The held-out sentences of a run. Its scores.jsonl has their fingerprint alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from neuronxa_callback.run_page.evaluations import pair_names
from neuronxa_callback.text.languages import PairsError, is_language_pair
from neuronxa_callback.text.pairs import ParallelPairs
from neuronxa_callback.training.page import RunPageError
from neuronxa_callback.training.records import Evaluation

Scored = tuple[str, int, str]  # name of a language pair, number of its sentence pairs, their fingerprint


def held_out_texts(evaluations: Sequence[Evaluation], given: Sequence[str]) -> dict[str, ParallelPairs]:
    """Return name of a language pair -> its held-out sentences, where they are those that the run scored.

    The embedded pairs are found without being named.

    Args:
        evaluations: the run's evaluations.
        given: files of held-out pairs, or two codes, as `ParallelPairs.load` takes them.

    Raises:
        RunPageError: given pairs cannot be read, or the run scored other sentences than theirs.
    """
    scored = list(_scored(evaluations))
    found: dict[str, ParallelPairs] = {}
    for name, n, fingerprint in scored:
        embedded = _embedded(name, n)
        if embedded is not None and embedded.fingerprint == fingerprint:
            found[name] = embedded
    for spec in given:
        loaded = _loaded(spec, max((n for _, n, _ in scored), default=2))
        here = [name for name, n, fingerprint in scored if loaded.name == name and _is_of(loaded, n, fingerprint)]
        if not here:
            raise RunPageError(_other(spec, loaded, scored))
        found |= {name: _first(loaded, n) for name, n, _ in scored if name in here}
    return found


def _scored(evaluations: Sequence[Evaluation]) -> Iterator[Scored]:
    for name in pair_names(evaluations):
        language = next(e.languages[name] for e in reversed(evaluations) if name in e.languages)
        n, fingerprint = language.signature.get("n"), language.signature.get("data")
        if n is not None and n.isdigit() and fingerprint is not None:
            yield name, int(n), fingerprint


def _embedded(name: str, n: int) -> ParallelPairs | None:
    try:
        return ParallelPairs.load(name, n=n) if is_language_pair(name) else None
    except PairsError:  # a language that the embedded set does not have
        return None


def _loaded(spec: str, n: int) -> ParallelPairs:
    try:
        return ParallelPairs.load(spec, n=max(2, n))
    except (PairsError, OSError) as error:
        raise RunPageError(f"--pairs {spec}: {error}") from error


def _first(pairs: ParallelPairs, n: int) -> ParallelPairs:
    return replace(pairs, source=pairs.source[:n], target=pairs.target[:n])


def _is_of(pairs: ParallelPairs, n: int, fingerprint: str) -> bool:
    return 2 <= n <= len(pairs) and _first(pairs, n).fingerprint == fingerprint


def _other(spec: str, loaded: ParallelPairs, scored: Sequence[Scored]) -> str:
    of_run = ", ".join(f"{n} pairs of {name} ({fingerprint})" for name, n, fingerprint in scored)
    return (
        f"--pairs {spec} holds other sentences than the run scored: it has {len(loaded)} pairs of {loaded.name} "
        f"({loaded.fingerprint}), and the run has {of_run or 'no fingerprint'}; name the file that the run was given."
    )
