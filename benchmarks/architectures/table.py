"""The table of docs/reference/architectures.md: what is read of every model type, from what was recorded."""

from __future__ import annotations

import re
import textwrap
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from benchmarks.architectures.examine import Examined

WIDTH = 120  # of the page's lines
RESULTS = Path(__file__).parent.parent / "results" / "architectures"
BEGIN, END = "<!-- made by: make architectures -->\n", "<!-- end -->\n"
OUTCOMES = {
    "read": "Read",
    "read in part": "Read in part: the other layers have no FFN",
    "hidden states alone": "Hidden states alone",
    "refused": "Refused",
    "crashed": "Crashed",
    "not built": "Not tried, because the tiny model does not run by itself",
}


def results_of(version: str) -> Path:
    """Return the file of what was found with a version of transformers."""
    return RESULTS / f"transformers-{version}.jsonl"


def read(path: Path) -> list[Examined]:
    """Return what a file records; nothing if there is no file."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [Examined.model_validate_json(line) for line in lines]


def write(path: Path, found: Iterable[Examined]) -> None:
    """Record what was found, one type a line, by name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = (one.model_dump_json(exclude_defaults=True) for one in sorted(found, key=lambda one: one.kind))
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def markdown() -> str:
    """Return a section for each recorded version of transformers, the newest first."""
    paths = sorted(RESULTS.glob("transformers-*.jsonl"), key=lambda path: _numbers(path.stem), reverse=True)
    return "\n".join(_section(path.stem.replace("transformers-", "transformers "), read(path)) for path in paths)


def _numbers(name: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", name)]


def _section(title: str, found: list[Examined]) -> str:
    count = Counter(one.outcome for one in found)
    exact = sum(one.states_exact is True for one in found)
    read_at_all = count["read"] + count["read in part"]
    summary = (
        f"{len(found)} types and variants. The neurons of {read_at_all} are read, and in {exact} of them all states "
        f"equal those of a plain forward pass. Of {count['hidden states alone']}, only hidden states are read. "
        f"{count['refused']} are refused. {count['not built']} were not tried."
    )
    lines = [f"### {title}", "", *textwrap.wrap(summary, WIDTH, break_on_hyphens=False), ""]
    for outcome, words in OUTCOMES.items():
        its = [one for one in found if one.outcome == outcome]
        if outcome in ("read", "read in part"):
            lines += _by_rule(words, its)
        elif its:
            lines += [f"| {words} | reason |", "| --- | --- |"]
            lines += [f"| {one.kind} | {_short(one.reason)} |" for one in its]
            lines.append("")
    return "\n".join(lines)


def _by_rule(words: str, found: list[Examined]) -> list[str]:
    """Return a table of types by the rule that says when a neuron is active."""
    if not found:
        return []
    lines = [f"| `neurons` | {words} |", "| --- | --- |"]
    for rule in sorted({one.neurons for one in found}):
        names = ", ".join(_named(one) for one in found if one.neurons == rule)
        lines.append(f"| `{rule}` | {names} |")
    return [*lines, ""]


def _named(one: Examined) -> str:
    notes = {True: [], None: ["not compared"], False: ["states differ"]}[one.states_exact]
    if one.hidden not in ("equal", "not given"):
        notes.append("hidden states differ" if one.hidden == "different" else "last hidden state differs")
    if one.beside:
        notes.append(f"beside them: {', '.join(one.beside)}")
    if one.ffn_layers:
        notes.append(f"layers {one.ffn_layers.replace('of', ' of ')}")
    return f"{one.kind} ({'; '.join(notes)})" if notes else one.kind


def _short(reason: str) -> str:
    """Return the first sentence of a reason, fit for a cell of a table."""
    return reason.partition(". ")[0].rstrip(".").replace("|", "\\|") + "."


def rebuild(page: Path) -> None:
    """Replace what stands between the marks of a page by the tables."""
    text = page.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    page.write_text(f"{before}{BEGIN}{markdown()}{END}{after}", encoding="utf-8")
