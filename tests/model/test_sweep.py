"""A fixed choice of the types that `make architectures` tries, and the table that it makes."""

from __future__ import annotations

import pytest
from pydantic import BaseModel

from benchmarks.architectures import table
from benchmarks.architectures.examine import Examined, Hidden, Outcome, examine
from tests.support import ROOT

pytestmark = pytest.mark.once  # transformers 4.57 lacks most of these types

GATED, PLAIN, ROUTED = "sigma(gate)>0", "sigma(up)>0", "routed&sigma(gate)>0"


class Expected(BaseModel):
    neurons: str = ""
    outcome: Outcome = "read"
    ffn_layers: str = ""
    exact: bool | None = True
    hidden: Hidden = "equal"
    reason: str = ""


EXPECTED = {
    "apertus": Expected(neurons=PLAIN),
    "axk2": Expected(neurons=f"{ROUTED}+{GATED}"),  # its gated norms are no FFNs
    "bitnet": Expected(neurons=GATED),
    "ctrl": Expected(neurons=PLAIN),
    "dbrx": Expected(neurons=ROUTED),
    "deepseek_v4": Expected(neurons=f"{ROUTED}+{GATED}"),
    "falcon_h1#multipliers": Expected(neurons=GATED),
    "gemma3n_text#sparse": Expected(neurons=GATED, hidden="equal but the last"),
    "gemma4_text#mixture": Expected(neurons=f"{ROUTED}+{GATED}"),
    "granitemoehybrid": Expected(neurons=f"{ROUTED}+{GATED}"),
    "granitemoehybrid#dense": Expected(neurons=GATED),
    "granitemoeshared": Expected(neurons=f"{ROUTED}+{GATED}"),
    "jetmoe": Expected(neurons=ROUTED),
    "lfm2": Expected(neurons=GATED),
    "lfm2_moe": Expected(neurons=f"{ROUTED}+{GATED}"),
    "llama#bidirectional": Expected(neurons=GATED),
    "llama4_text": Expected(neurons=f"{ROUTED}+{GATED}"),
    "modernbert-decoder": Expected(neurons=GATED),
    "moshi": Expected(neurons=GATED),
    "nemotron_h": Expected(neurons=f"routed&{PLAIN}+{PLAIN}", outcome="read in part", ffn_layers="2,4of4"),
    "zamba2": Expected(neurons=GATED, outcome="read in part", ffn_layers="2,4of4"),
    "zaya": Expected(neurons=ROUTED),
    "doge#mixture": Expected(
        outcome="refused", exact=None, hidden="not given", reason="mixes the tokens of a sentence"
    ),
    "inkling_text": Expected(outcome="hidden states alone", exact=None, reason="holds neurons that are not read"),
    # transformers lists Mamba's hidden states from the output of the first layer on, and has no input of that.
    "mamba": Expected(
        outcome="hidden states alone", exact=None, hidden="different", reason="no layer of MambaForCausalLM holds"
    ),
    "bert": Expected(outcome="refused", exact=None, hidden="not given", reason="BertModel has no list of 4 decoder"),
    "prophetnet": Expected(outcome="refused", exact=None, hidden="not given", reason="no layer of ProphetNet"),
}


@pytest.mark.parametrize("kind", EXPECTED)
def test_what_is_read_is_what_a_plain_forward_pass_gives(kind: str) -> None:
    found, expected = examine(kind), EXPECTED[kind]
    assert found.outcome == expected.outcome, found.reason
    assert expected.reason in found.reason
    assert (found.neurons, found.ffn_layers) == (expected.neurons, expected.ffn_layers)
    assert (found.states_exact, found.hidden) == (expected.exact, expected.hidden)


def test_the_table_of_the_page_is_that_of_what_is_recorded() -> None:
    page = (ROOT / "docs" / "architectures.md").read_text(encoding="utf-8")
    assert f"{table.BEGIN}{table.markdown()}{table.END}" in page


@pytest.mark.parametrize("path", sorted(table.RESULTS.glob("*.jsonl")), ids=lambda path: path.stem)
def test_no_recorded_type_is_read_wrong(path: object) -> None:
    """A type whose states are compared has the right ones, and nothing crashes."""
    wrong = [one.kind for one in table.read(path) if one.states_exact is False or one.outcome == "crashed"]  # type: ignore[arg-type]
    assert wrong == []
    assert all(isinstance(one, Examined) for one in table.read(path))  # type: ignore[arg-type]
