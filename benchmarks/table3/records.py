"""The lines of text.jsonl and scores.jsonl in docs/results/table3/MODEL/."""

from __future__ import annotations

from typing import ClassVar, NamedTuple

from neuronxa_callback.files import Record
from neuronxa_callback.signature import SignatureText
from neuronxa_callback.vocabulary import TokenPooling

ENGLISH = "eng_Latn"
OTHER_PIVOTS = ("deu_Latn", "fra_Latn", "ita_Latn")  # the paper's (Tables 6 and 7)
POOLINGS: tuple[TokenPooling, ...] = ("weighted", "average", "last")
PAIRS = 100
SIZES = (25, 50, 100, 200, 300)


class Setting(NamedTuple):
    """How a language's alignment is measured.

    Attributes:
        pooling: how tokens become a sentence.
        pivot: FLORES-200 code of the language that it is aligned with.
        n: the number of sentence pairs, from the first on. Fewer are taken where the text has fewer.
    """

    pooling: TokenPooling
    pivot: str
    n: int


SETTINGS = (
    *(Setting("weighted", ENGLISH, n) for n in SIZES),
    *(Setting("weighted", pivot, PAIRS) for pivot in OTHER_PIVOTS),
    Setting("average", ENGLISH, PAIRS),
    Setting("last", ENGLISH, PAIRS),
)


class TableLine(Record):
    """What was measured of a model in one language.

    Attributes:
        model: the name of the model's folder.
        lang: FLORES-200 code of the language.
        key: the model, the text and the version.
    """

    CALLED: ClassVar[str] = "a line of benchmarks.table3"

    model: str
    lang: str
    key: SignatureText


class TextLine(TableLine):
    """What needs no method at all.

    Attributes:
        sentences: how many sentences were read.
        characters: how many characters they have.
        tokens: how many tokens the tokenizer makes of them, without special tokens.
        predicted: how many tokens have a loss.
        loss: the sum of the tokens' losses, in nats.
    """

    sentences: int
    characters: int
    tokens: int
    predicted: int
    loss: float

    @property
    def tokens_per_character(self) -> float:
        """How finely the tokenizer cuts the language."""
        return self.tokens / self.characters

    @property
    def loss_per_token(self) -> float:
        """The mean loss of a token. A finely cut language has many easy tokens."""
        return self.loss / self.predicted

    @property
    def loss_per_sentence(self) -> float:
        """The mean loss of a sentence. All languages have the same sentences, so it does not depend on the tokens."""
        return self.loss / self.sentences


class AlignmentLine(TableLine):
    """The alignment in one setting.

    Attributes:
        pivot: FLORES-200 code of the language that it is aligned with.
        pooling: how tokens became a sentence.
        n: the number of sentence pairs that the setting asks for.
        pairs: how many were scored. Fewer than `n` if the text has fewer.
        score: method -> its score, the mean over layers; "4-grams" is the baseline of no model.
    """

    pivot: str
    pooling: TokenPooling
    n: int
    pairs: int
    score: dict[str, float]

    @property
    def setting(self) -> Setting:
        """How the alignment was measured."""
        return Setting(self.pooling, self.pivot, self.n)
