"""Columns of the shapes that people have: the hub's, ALMA's, data frames, two-letter names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import pandas as pd
import pytest

from neuronxa_callback import ParallelPairs
from neuronxa_callback.text.corpora import open_corpus
from neuronxa_callback.text.languages import PairsError
from tests.text.samples import CODES, ENGLISH, EXPECTED, ICELANDIC, ROWS, refused, write

pytestmark = pytest.mark.unit

PARTS = [{"en": s, "is": t} for s, t in ROWS]


class TestNames:
    @pytest.mark.parametrize(
        "names", [("en", "is"), ("eng", "isl"), ("en-US", "is_IS"), ("EN", "is"), ("en", "isl_Latn")]
    )
    def test_other_tags_than_codes(self, names: tuple[str, str]) -> None:
        rows = [dict(zip(names, row, strict=True)) for row in ROWS]
        assert ParallelPairs.load(rows) == EXPECTED
        assert ParallelPairs.load(rows, *CODES) == EXPECTED
        assert ParallelPairs.load(rows, "en", "is", columns=names) == EXPECTED
        assert ParallelPairs.load(rows, "isl_Latn").source == ICELANDIC
        assert ParallelPairs.load(rows, target_lang="en").source == ICELANDIC

    def test_numbers_of_rows_are_neither_indonesian_nor_norwegian(self) -> None:
        rows = [{"id": str(i), "no": str(i), "en": s, "is": t} for i, (s, t) in enumerate(ROWS)]
        assert ParallelPairs.load(rows) == EXPECTED
        rows = [{"id": str(i), "no": str(i), "source": s, "target": t} for i, (s, t) in enumerate(ROWS)]
        assert ParallelPairs.load(rows, *CODES) == EXPECTED
        rows = [{"en": s, "id": t} for s, t in ROWS]
        assert ParallelPairs.load(rows).target_lang == "ind_Latn"

    @pytest.mark.parametrize(
        ("other", "is_tag"), [("src", True), ("URL", True), ("zh", True), ("idx", False), ("score", False)]
    )
    def test_two_short_names_beside_another_are_no_guess(self, other: str, is_tag: bool, tmp_path: Path) -> None:
        """In quality estimation, "mt" and "da" are no Maltese and Danish."""
        rows = [{other: "x", "mt": s, "da": t} for s, t in ROWS]
        path = write(tmp_path / "x.jsonl", "\n".join(map(json.dumps, rows)))
        assert ParallelPairs.load(rows, "mt", "da").target_lang == "dan_Latn"
        assert ParallelPairs.load(rows, *CODES, columns=("mt", "da")) == EXPECTED
        codes = [{other: "x", "mlt_Latn": s, "dan_Latn": t} for s, t in ROWS]
        assert ParallelPairs.load(codes).target_lang == "dan_Latn"
        if not is_tag:
            assert ParallelPairs.load(rows).target_lang == "dan_Latn"
            assert open_corpus(path).languages == ("mlt_Latn", "dan_Latn")
            return
        refused(f"the list has the columns {other}, mt, da; {other} (may be a language, too|is written in two)", rows)
        with pytest.raises(PairsError, match=f"has the columns {other}, mt, da; name at least two by FLORES-200 codes"):
            open_corpus(path)

    @pytest.mark.parametrize("numbers", [("78.3", "91", "0.5"), ("1e-07", "nan", "-3"), ("12:30", "10 %", "Three.")])
    def test_numbers_are_no_sentences(self, numbers: tuple[str, ...]) -> None:
        rows = [{"run": s, "min": number} for s, number in zip(ENGLISH, numbers, strict=True)]
        refused(
            rf"[23] of the 3 min_Latn sentences of the list are numbers; the first: row 1 of the list holds "
            f"'{numbers[0]}'; give columns or files of sentences",
            rows,
        )
        most = [{"en": s, "is": t} for s, t in zip(ENGLISH, (*ICELANDIC[:2], "1984."), strict=True)]
        assert ParallelPairs.load(most).target[2] == "1984."

    def test_codes_come_first(self) -> None:
        rows = [{"eng_Latn": s, "isl_Latn": t, "is": "x", "fr": "y"} for s, t in ROWS]
        assert ParallelPairs.load(rows) == EXPECTED

    def test_chinese_needs_its_script(self) -> None:
        rows = [{"en": s, "zh": t} for s, t in ROWS]
        refused("columns en, zh; zh is written in two scripts, so pass source_lang and target_lang", rows)
        assert ParallelPairs.load(rows, "en", "zh-CN").target_lang == "zho_Hans"
        assert ParallelPairs.load(rows, "en", "zho_Hant").target_lang == "zho_Hant"
        rows = [{"en": s, "zh-TW": t} for s, t in ROWS]
        assert ParallelPairs.load(rows).target_lang == "zho_Hant"
        refused("columns en, zh-TW, and none of them is zho_Hans", rows, "eng_Latn", "zho_Hans")

    def test_languages_in_another_order_than_the_columns(self) -> None:
        refused(
            "the column en of the list would be called isl_Latn, and is eng_Latn; give the columns and the languages",
            PARTS,
            *CODES[::-1],
            columns=("en", "is"),
        )

    def test_a_given_language_that_no_column_has(self) -> None:
        said = "the list has the columns en, is, and none of them is deu_Latn; name that column by its code, or pass"
        for options in ({"source_lang": "de"}, {"target_lang": "deu_Latn"}, {"source_lang": "en", "target_lang": "de"}):
            refused(said, PARTS, **options)
        refused(
            "the columns en, is, fr, and none of them is deu_Latn", [{**part, "fr": "x"} for part in PARTS], "de", "is"
        )
        assert ParallelPairs.load(PARTS, "de", columns=("en", "is")).source_lang == "deu_Latn"
        rows = [{"source": s, "target": t, "en": "x"} for s, t in ROWS]
        assert ParallelPairs.load(rows, "de", "is").source == ENGLISH

    def test_a_given_language_counts_more_than_a_short_name(self) -> None:
        rows = [{"it": s, "hr": t} for s, t in ROWS]  # input text and human reference
        assert ParallelPairs.load(rows, *CODES, columns=("it", "hr")) == EXPECTED


class TestHub:
    @pytest.mark.parametrize("column", ["translation", "is-en", "en-is"])
    @pytest.mark.parametrize("options", [{}, {"columns": ("en", "is")}])
    def test_a_column_of_two_languages(self, column: str, options: dict[str, Any], tmp_path: Path) -> None:
        features = datasets.Features({column: datasets.Translation(languages=["en", "is"])})
        dataset = datasets.Dataset.from_dict({column: PARTS}, features=features)
        dataset.to_parquet(tmp_path / "t.parquet")
        dataset.to_json(tmp_path / "t.jsonl")
        array = write(tmp_path / "t.json", json.dumps([{column: part} for part in PARTS]))
        specs = [dataset, dataset.to_iterable_dataset(), tmp_path / "t.parquet", tmp_path / "t.jsonl", array]
        for spec in specs:
            assert ParallelPairs.load(spec, **options) == EXPECTED
            assert ParallelPairs.load(spec, *CODES, **options) == EXPECTED
        assert open_corpus(array).pairs(*CODES) == EXPECTED

    def test_a_struct_that_is_no_translation(self) -> None:
        rows = [{"meta": {"en": "no", "is": "nei"}, "en": s, "is": t} for s, t in ROWS]
        assert ParallelPairs.load(rows) == EXPECTED


class TestDataFrame:
    def test_columns(self) -> None:
        frame = pd.DataFrame(ROWS, columns=list(CODES))
        assert ParallelPairs.load(frame) == EXPECTED
        assert ParallelPairs.load(frame.set_index("eng_Latn").reset_index()) == EXPECTED
        other = pd.DataFrame({"a": ENGLISH, "b": ICELANDIC}, index=[7, 8, 9])
        assert ParallelPairs.load(other, *CODES, columns=("a", "b")) == EXPECTED

    def test_faults(self) -> None:
        frame = pd.DataFrame({"source": ENGLISH, "target": [ICELANDIC[0], None, ICELANDIC[2]]})
        refused("row 2 of the DataFrame holds (nan|None) where the isl_Latn sentence should be", frame, *CODES)
        refused("the DataFrame has the columns 0, 1; name two", pd.DataFrame(ROWS), *CODES)
        refused("the DataFrame holds no pairs", pd.DataFrame(columns=list(CODES)))
