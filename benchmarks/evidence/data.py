"""Make the text of the evidence's runs from the published files: `python -m benchmarks.evidence.data FOLDER`.

FOLDER holds multi30k/, ntrex/ and tatoeba/; docs/results/README.md says how to fetch them. The tables go to runs/data/,
which is not committed, with a column for each language.
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
# NTREX keeps the order of its documents, so what is held out shares no document with what is trained on but one.
NTREX_HELD_OUT = 300


def multi30k(folder: Path) -> dict[str, list[Sequence[str]]]:
    """Return the rows of captions: what is trained on, and what is held out."""
    return {
        f"multi30k.{split}": _columns([folder / f"{split}.{short}" for short in MULTI30K.values()])
        for split in ("train", "val")
    }


def ntrex(folder: Path) -> dict[str, list[Sequence[str]]]:
    """Return the rows of news: the first lines are held out, and the rest is trained on."""
    rows = _columns([folder / file for file in NTREX.values()])
    return {"ntrex.held_out": rows[:NTREX_HELD_OUT], "ntrex.train": rows[NTREX_HELD_OUT:]}


def write(name: str, codes: Iterable[str], rows: Sequence[Sequence[str]]) -> Path:
    """Write a table with a column for each language. A tab within a sentence becomes a space."""
    DATA.mkdir(parents=True, exist_ok=True)
    lines = ["\t".join(codes), *("\t".join(cell.replace("\t", " ") for cell in row) for row in rows)]
    path = DATA / f"{name}.tsv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def _columns(paths: Sequence[Path]) -> list[Sequence[str]]:
    columns = [path.read_text(encoding="utf-8").rstrip("\n").split("\n") for path in paths]
    return list(zip(*columns, strict=True))


def make(folder: Path, names: Iterable[str]) -> None:
    """Write the tables of some corpora.

    Args:
        folder: the folder with a folder for each corpus.
        names: "multi30k", "ntrex".
    """
    for name in names:
        codes, read = {"multi30k": (MULTI30K, multi30k), "ntrex": (NTREX, ntrex)}[name]
        for table, rows in read(folder / name).items():
            print(f"{write(table, codes, rows)}: {len(rows):,} rows")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    make(parser.parse_args().folder, ("multi30k", "ntrex"))


if __name__ == "__main__":
    main()
