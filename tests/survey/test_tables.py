"""The tables of a survey, of lines that are written here."""

from __future__ import annotations

from typing import Any

import pytest

from neuronxa_callback.signature import Signature
from neuronxa_callback.survey import tables
from neuronxa_callback.survey.records import ScoreLine
from neuronxa_callback.tables import Table

pytestmark = pytest.mark.unit


def line(lang: str = "isl_Latn", **changed: Any) -> ScoreLine:
    fields: dict[str, Any] = {
        "model": "m",
        "lang": lang,
        "pivot": "eng_Latn",
        "signature": Signature.of(method="nasca+cka", n=100, permutations=199),
        "key": Signature(),
        "score": {"nasca": 0.25, "cka": 0.5},
        "ci": {"nasca": (0.125, 0.5)},
        "chance": {"nasca": 0.001, "cka": 0.4},
        "p_value": {"nasca": 0.0001, "cka": 0.005},
        "per_layer": {"nasca": [0.5, 0.0], "cka": [0.5, 0.5, 0.5]},
        "chance_per_layer": {"nasca": [0.002, 0.0], "cka": [0.3, 0.4, 0.5]},
        "p_per_layer": {"nasca": [0.0001, 1.0], "cka": [0.005, 0.6, 0.7]},
    }
    return ScoreLine(**fields | changed)


OLD: dict[str, Any] = {"chance": {}, "chance_per_layer": {}, "p_per_layer": {}}


def cells(table: Table, column: str) -> list[Any]:
    return [row[table.columns.index(column)] for row in table.rows]


def test_a_line_of_an_older_format_has_no_chance_and_no_p_of_its_layers() -> None:
    layers = tables.layer_table([line(**OLD), line("fra_Latn")], [])
    assert cells(layers, "chance") == [None, None, 0.002, 0.0, None, None, None, 0.3, 0.4, 0.5]
    assert cells(layers, "p (layers)") == [None, None, 0.0001, 1.0, None, None, None, 0.005, 0.6, 0.7]
    assert cells(layers, "p (languages)") == cells(layers, "p (layers)")  # one language was tested
    scores = tables.score_table([line(**OLD), line("fra_Latn")], [])
    assert cells(scores, "chance") == [None, None, 0.001, 0.4]
    told = "Lines of older versions have no chance, and Eq. 5's p for NASCA, NAVCA and MEXA."
    assert told in scores.notes
    assert told not in tables.score_table([line()], []).notes


def test_a_layers_p_is_multiplied_by_the_number_of_languages() -> None:
    layers = tables.layer_table([line(), line("fra_Latn"), line("deu_Latn")], [])
    assert cells(layers, "p (languages)")[:2] == pytest.approx([0.0003, 1.0])
    assert cells(layers, "p (languages)")[6:9] == pytest.approx([0.015, 1.0, 1.0])


def test_only_shares_of_pairs_have_an_interval_of_a_layer() -> None:
    layers = tables.layer_table([line()], [])
    # Wilson's interval of 50 and of 0 of 100, from its closed form.
    assert cells(layers, "low")[:2] == pytest.approx([0.4038, 0], abs=1e-4)
    assert cells(layers, "high")[:2] == pytest.approx([0.5962, 0.0370], abs=1e-4)
    assert cells(layers, "low")[2:] == cells(layers, "high")[2:] == [None] * 3


def test_the_notes_say_how_chance_was_measured_and_which_is_the_papers() -> None:
    measured, paper = tables.chance_notes([line()])
    assert "9,999 random re-pairings (199 of cka)" in measured
    assert paper == "The paper's chance level of NASCA, NAVCA and MEXA (Eq. 5): 0.0050 for 100 pairs."
    only = line(score={"cka": 0.5}, chance={"cka": 0.4}, p_value={"cka": 0.005})
    (measured,) = tables.chance_notes([only])
    assert "the share of 199 random re-pairings" in measured
    assert tables.chance_notes([line(score={"cka": 0.5}, chance={}, p_value={})]) == []


@pytest.mark.parametrize(("number", "methods"), [(9, []), (10, ["cka"]), (499, ["cka"]), (500, ["nasca", "cka"])])
def test_a_correction_that_no_p_survives_is_named(number: int, methods: list[str]) -> None:
    """The least p is 1 / 10,000 for NASCA and 1 / 200 for CKA. No p of 0.05 is below 0.05."""
    notes = tables.reach_notes([line(f"{place:03}") for place in range(number)])
    assert [note.split()[4] for note in notes] == methods
    assert [note for note in tables.score_table([line()] * number, []).notes if "cannot fall" in note] == notes
    assert [note for note in tables.layer_table([line()] * number, []).notes if "cannot fall" in note] == notes


def test_a_line_without_a_control_of_its_surface_has_one_table() -> None:
    (table,) = tables.score_tables([line()], [])
    assert table.columns == ["language", "method", "score", "low", "high", "chance", "p", "p (Holm)", "signature"]
    assert cells(tables.score_table([line()], []), "carriers") == [None, None]


@pytest.mark.parametrize(("carriers", "said"), [(9, True), (10, False)])
def test_languages_whose_score_few_pairs_carry_are_named(carriers: int, said: bool) -> None:
    surface = {
        "n_without_shared": 40,
        "without_shared": {"nasca": 0.125},
        "carriers": {"nasca": carriers},
        "carriers_sharing": {"nasca": 5},
        "ngram_baseline": 0.75,
    }
    _, table = tables.score_tables([line(surface=surface), line("fra_Latn")], [])
    assert table.rows == [["isl_Latn", "nasca", 0.25, 0.125, 0.75, carriers]]
    few = "Fewer than 10 pairs carry a score of isl_Latn. So few say little."
    assert table.notes == [tables.SURFACE, *([few] if said else [])]


def test_a_table_that_no_score_is_in_has_no_signature() -> None:
    shown = tables.for_people(Table("title", ["method", "signature", "r"], [], ["why"]))
    assert shown == Table("title", ["method", "r"], [], ["why"])
