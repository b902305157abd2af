"""Make the text of the evidence's runs from the published files: `python -m benchmarks.evidence.data FOLDER`.

FOLDER holds multi30k/, ntrex/ and tatoeba/; docs/results/README.md says how to fetch them. The tables go to runs/data/,
which is not committed, with a column for each language. Beside them lie the captions of one language as plain text.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path

DATA = Path("runs/data")
MULTI30K = {"eng_Latn": "en", "fra_Latn": "fr", "deu_Latn": "de", "ces_Latn": "cs"}
NTREX = {
    "eng_Latn": "newstest2019-src.eng.txt",
    "isl_Latn": "newstest2019-ref.isl.txt",
    "fao_Latn": "newstest2019-ref.fao.txt",
}
# NTREX keeps the order of its documents, so what is held out shares at most one document with what is trained on.
NTREX_HELD_OUT = 300
# Two cores translate a hundred long sentences of news in minutes, and these in half a minute.
LONGEST = 16  # English words of a held-out sentence
TATOEBA = ("tatoeba.isl-eng.eng", "tatoeba.isl-eng.isl")
# Captions of the first rows are trained on as pairs; the rest serves as text of one language.
MONOLINGUAL = {"eng_Latn": slice(2000, 10000), "fra_Latn": slice(10000, 20000)}


def multi30k(folder: Path) -> None:
    """Write the captions: what is trained on, what is held out, and text of one language.

    Args:
        folder: the folder with the corpora.
    """
    rows = {
        split: _columns([folder / "multi30k" / f"{split}.{short}" for short in MULTI30K.values()])
        for split in ("train", "val")
    }
    for split, of_split in rows.items():
        write(f"multi30k.{split}", MULTI30K, of_split)
    for code, some in MONOLINGUAL.items():
        column = list(MULTI30K).index(code)
        _write(f"multi30k.{code}.txt", [row[column] for row in rows["train"][some]])


def icelandic(folder: Path) -> None:
    """Write NTREX and Tatoeba: short news of three languages is held out, and other news and Tatoeba are trained on.

    Args:
        folder: the folder with the corpora.
    """
    news = _columns([folder / "ntrex" / file for file in NTREX.values()])
    held_out = [row for row in news[:NTREX_HELD_OUT] if len(row[0].split()) <= LONGEST]
    write("icelandic.held_out", NTREX, held_out)
    everyday = _columns([folder / "tatoeba" / file for file in TATOEBA])
    both = zip([row[:2] for row in news[NTREX_HELD_OUT:]], everyday, strict=False)  # until Tatoeba ends
    write("icelandic.train", list(NTREX)[:2], [row for pair in both for row in pair])


def write(name: str, codes: Iterable[str], rows: Sequence[Sequence[str]]) -> None:
    """Write a table with a column for each language. A tab within a sentence becomes a space."""
    cells = ("\t".join(cell.replace("\t", " ") for cell in row) for row in rows)
    _write(f"{name}.tsv", ["\t".join(codes), *cells])


def _write(name: str, lines: Sequence[str]) -> None:
    DATA.mkdir(parents=True, exist_ok=True)
    (DATA / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{DATA / name}: {len(lines):,} lines")


def _columns(paths: Sequence[Path]) -> list[Sequence[str]]:
    columns = [path.read_text(encoding="utf-8").rstrip("\n").split("\n") for path in paths]
    return list(zip(*columns, strict=True))


MAKERS = {"multi30k": multi30k, "icelandic": icelandic}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    for make in MAKERS.values():
        make(folder)


if __name__ == "__main__":
    main()
