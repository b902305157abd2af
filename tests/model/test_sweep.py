"""A fixed choice of the types that `make architectures` tries, and the table that it makes."""

from __future__ import annotations

import pytest
from pydantic import BaseModel

from benchmarks.architectures import configs, oracle, table
from benchmarks.architectures.examine import SENTENCES, Hidden, Outcome, examine, make_tokenizer
from neuronxa_callback.model.decoder import Decoder
from tests.support import ROOT

pytestmark = pytest.mark.once  # transformers 4.57 lacks most of these types

GATED, PLAIN, ROUTED = "sigma(gate)>0", "sigma(up)>0", "routed&sigma(gate)>0"


class Expected(BaseModel):
    neurons: str = ""
    outcome: Outcome = "read"
    ffn_layers: str = ""
    exact: bool | None = True
    hidden: Hidden = "equal"
    beside: list[str] = []
    reason: str = ""


EXPECTED = {
    "apertus": Expected(neurons=PLAIN),
    "axk2": Expected(neurons=f"{ROUTED}+{GATED}"),  # its gated norms are no FFNs
    "bitnet": Expected(neurons=GATED),
    "ctrl": Expected(neurons=PLAIN),
    "dbrx": Expected(neurons=ROUTED),
    "deepseek_v4": Expected(neurons=f"{ROUTED}+{GATED}"),
    "falcon_h1#multipliers": Expected(neurons=GATED),
    "gemma3n_text#sparse": Expected(neurons=GATED, hidden="equal but the last", beside=["act_fn of 8"]),
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
    assert (found.states_exact, found.hidden, found.beside) == (expected.exact, expected.hidden, expected.beside)


def test_the_oracle_hears_neurons_that_are_not_read() -> None:
    """It listens to the whole layer, so that the check is not its own witness."""
    model = configs.tiny_model("granitemoeshared")
    decoder = Decoder.find(model, make_tokenizer())
    ids = decoder.tokenize(SENTENCES[:1])[0]
    assert oracle.listen(model, decoder.layers, decoder.ffns, ids).beside == set()
    experts_alone = [parts[1:] for parts in decoder.ffns]
    assert oracle.listen(model, decoder.layers, experts_alone, ids).beside == {"activation of 40"}


def test_the_table_of_the_page_is_that_of_what_is_recorded() -> None:
    page = (ROOT / "docs" / "reference" / "architectures.md").read_text(encoding="utf-8")
    assert f"{table.BEGIN}{table.markdown()}{table.END}" in page


# Small gates that are no FFN neurons: the per-layer inputs of Gemma 3n and Gemma 4.
BESIDE = {"gemma3n_text", "gemma3n_text#sparse"}


def test_no_recorded_type_is_read_wrong() -> None:
    """A type whose states are compared has the right ones, nothing is left out, and nothing crashes."""
    recorded = {path.stem: table.read(path) for path in table.RESULTS.glob("*.jsonl")}
    assert len(recorded) == 2
    for found in recorded.values():
        assert len(found) > 100
        assert [one.kind for one in found if one.states_exact is False or one.outcome == "crashed"] == []
        assert {one.kind for one in found if one.beside} <= BESIDE
