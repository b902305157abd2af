"""BMLAMA's layout, read from folders and from the hub's cache, and what is said of prompts that cannot be used."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from neuronxa_callback.survey.knowledge.prompts import Fact, PromptsError, fingerprint, open_prompts

pytestmark = pytest.mark.unit

HEADER = "Prompt\tAns\tCandidate Ans\tSubject"
ENGLISH = ["Oslo is in <mask>.\tNorway\tIceland, Norway, Iceland\tOslo", "<mask> and A are twins.\tB, C\tB, D, E\tA"]
GERMAN = ["Oslo liegt in <mask>.\tNorwegen\tIsland, Norwegen\tOslo", "<mask> und A sind Partner.\tB, D\tB, D, E\tA"]


def write(folder: Path, tag: str, rows: Sequence[str], header: str = HEADER) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{tag}.tsv"
    path.write_bytes("\r\n".join([header, *rows, ""]).encode())  # as the authors' files are
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path / "BMLAMA53", "en", ENGLISH)
    write(tmp_path / "BMLAMA53", "de", GERMAN)
    return tmp_path / "BMLAMA53"


def test_a_folder(folder: Path) -> None:
    write(folder, "zh", GERMAN)
    write(folder, "notes", [])
    prompts = open_prompts(str(folder))
    assert prompts.name == "BMLAMA53"
    assert prompts.languages == ["deu_Latn", "eng_Latn", "zho_Hans"]
    facts = prompts.facts(["eng_Latn", "deu_Latn"])
    first = Fact(1, "Oslo is in <mask>.", ("Iceland", "Norway"), (1,))
    assert facts["eng_Latn"] == [first, Fact(2, "<mask> and A are twins.", ("B", "D", "E"), (0, None))]
    assert first.sentences == ["Oslo is in Iceland.", "Oslo is in Norway."]
    assert prompts.facts(["eng_Latn"], 1) == {"eng_Latn": [first]}
    assert prompts.chosen([]) == prompts.languages
    assert prompts.chosen(["zho_Hans", "zho_Hans"]) == ["zho_Hans"]
    assert fingerprint(facts["eng_Latn"]) != fingerprint(facts["deu_Latn"])


def test_a_folder_around_the_files(folder: Path) -> None:
    assert open_prompts(str(folder.parent)).name == "BMLAMA53"
    write(folder.parent / "BMLAMA17", "en", ENGLISH)
    with pytest.raises(PromptsError, match="choose one of BMLAMA17, BMLAMA53 in it"):
        open_prompts(str(folder.parent))


def test_the_hub(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub's library finds a data set in its cache, in the cache's own layout."""
    cache = tmp_path / "cache"
    place = cache / "datasets--owner--bmlama"
    (place / "snapshots" / "abc").mkdir(parents=True)
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text("abc")
    folder.rename(place / "snapshots" / "abc" / "BMLAMA53")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert open_prompts("owner/bmlama/BMLAMA53").languages == ["deu_Latn", "eng_Latn"]
    assert open_prompts("owner/bmlama").name == "BMLAMA53"
    with pytest.raises(PromptsError, match="owner/bmlama/BMLAMA17 holds no files of prompts"):
        open_prompts("owner/bmlama/BMLAMA17")
    with pytest.raises(PromptsError, match=r"owner/none cannot be had .*give a folder with a file such as is\.tsv"):
        open_prompts("owner/none")


@pytest.mark.parametrize(
    ("rows", "header", "said"),
    [
        (GERMAN, "Prompt\tAns\tSubject", r"de\.tsv, line 1, has no column Candidate Ans; its first line must hold"),
        ([GERMAN[0], "zu kurz\tB"], HEADER, r"de\.tsv, line 3, has 2 of the columns in line 1; write"),
        ([GERMAN[0], ""], HEADER, r"en\.tsv has 2 facts and .*de\.tsv has 1; line i of every file"),
        ([GERMAN[0], "", GERMAN[1]], HEADER, r"de\.tsv, line 3, has 1 of the columns"),
        (["Oslo liegt in.\tA\tA, B\tOslo", GERMAN[1]], HEADER, r"de\.tsv, line 2, has no <mask> in its prompt; put it"),
        (["<mask>\t\tA, B\tOslo", GERMAN[1]], HEADER, r"de\.tsv, line 2, has an empty answer or candidate; write it"),
        (["<mask>\tA\tA, , B\tOslo", GERMAN[1]], HEADER, r"de\.tsv, line 2, has an empty answer or candidate"),
        ([], "", r"de\.tsv, line 1, has no column Prompt"),
    ],
)
def test_bad_files(folder: Path, rows: list[str], header: str, said: str) -> None:
    write(folder, "de", rows, header)
    with pytest.raises(PromptsError, match=said):
        open_prompts(str(folder)).facts(["eng_Latn", "deu_Latn"])


def test_bad_bytes_and_names(folder: Path, tmp_path: Path) -> None:
    prompts = open_prompts(str(folder))
    with pytest.raises(PromptsError, match="BMLAMA53 has no prompts in isl_Latn; it has deu_Latn, eng_Latn"):
        prompts.chosen(["isl_Latn"])
    with pytest.raises(PromptsError, match="'is' is not a FLORES-200 language code"):
        prompts.chosen(["is"])
    with pytest.raises(PromptsError, match=r"tsv has 2 facts; ask for no more \(--n\)"):
        prompts.facts(["eng_Latn"], 3)
    (folder / "de.tsv").write_bytes(f"{HEADER}\nÖl <mask>".encode("latin-1"))
    with pytest.raises(PromptsError, match=r"de\.tsv, line 2, is not UTF-8; convert"):
        prompts.facts(["deu_Latn"])
    write(folder, "deu", GERMAN)
    with pytest.raises(PromptsError, match=r"has two files of deu_Latn, de\.tsv and deu\.tsv; move one away"):
        open_prompts(str(folder))
    with pytest.raises(PromptsError, match=r"nowhere does not exist; give a folder"):
        open_prompts(str(tmp_path / "nowhere"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(PromptsError, match="empty holds no files of prompts; give a folder"):
        open_prompts(str(tmp_path / "empty"))
