"""Measure a model over many languages from the command line. Each language is on disk as soon as it is done."""

from __future__ import annotations

import gc
import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.progress import Progress
from torch import nn

from neuronxa_callback._version import __version__
from neuronxa_callback.alignment.evaluator import Encoded, NeuronXAEvaluator
from neuronxa_callback.alignment.pair_scores import PairScores, of_report
from neuronxa_callback.files import append_record
from neuronxa_callback.model.decoder import Decoder
from neuronxa_callback.model.loading import Checkpoint, Loader, check_packages, load_tokenizer, read_json
from neuronxa_callback.ranks import Ranks
from neuronxa_callback.signature import Signature
from neuronxa_callback.survey.records import IDENTITY, Line, Retrieval, ScoreLine
from neuronxa_callback.survey.shares import collected, length, own_file, put_together, share
from neuronxa_callback.text.corpora import Corpus
from neuronxa_callback.text.pairs import PairsError, ParallelPairs
from neuronxa_callback.vocabulary import Dtype

MODEL_REMEDY = "give the folder or the hub name of a causal language model"
ADAPTER_REMEDY = "give the folder of an adapter that was trained on this model"
ADAPTER_CONFIG = "adapter_config.json"


@dataclass(frozen=True)
class ModelChoice:
    """The model to measure and how to load it.

    Attributes:
        model: its folder or its name on the hub, or the folder of an adapter that names its base model.
        adapter: the folder of an adapter to put on the model.
        dtype: the type to load the weights in; "auto" takes the one in the model's configuration.
        load_in_4bit: whether to load the weights in NF4.
        device: "cpu", "cuda" or "cuda:N"; None takes a GPU if there is one.
    """

    model: str
    adapter: str | None = None
    dtype: Dtype = "auto"
    load_in_4bit: bool = False
    device: str | None = None

    @property
    def name(self) -> str:
        """The model's name in tables."""
        parts = [Path(self.model).name if Path(self.model).is_dir() else self.model]
        parts += [Path(self.adapter).name] if self.adapter else []
        return " + ".join(parts) + (" (nf4)" if self.load_in_4bit else "")

    @property
    def identity(self) -> Signature:
        """A signature that changes with the weights on disk, so that old scores are not taken for those of new weights.

        The weights of a model on the hub are known by its name alone.
        """
        files = [path for checkpoint in self.checkpoints() for path in _weights(Path(checkpoint.source))]
        stamps = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
        digest = hashlib.sha256(repr(stamps).encode()).hexdigest()[:12] if stamps else "hub"
        parts = (self.model, self.adapter or "", self.dtype, "nf4" if self.load_in_4bit else "", digest)
        return Signature.of(dict(zip(IDENTITY, parts, strict=True)))

    def checkpoints(self) -> list[Checkpoint]:
        """Return the model, followed by its adapter if it has one."""
        folder = Path(self.adapter or self.model)
        if self.adapter is None and not (folder / ADAPTER_CONFIG).exists():
            return [Checkpoint(self.model, MODEL_REMEDY)]
        config = read_json(folder / ADAPTER_CONFIG) if (folder / ADAPTER_CONFIG).exists() else {}
        base = self.model if self.adapter else config.get("base_model_name_or_path") or self.model
        return [Checkpoint(base, MODEL_REMEDY), Checkpoint(str(folder), ADAPTER_REMEDY, step=1, adapter=config)]

    @contextmanager
    def loaded(self) -> Iterator[tuple[nn.Module, Any]]:
        """Load the model in evaluation mode and its tokenizer, and free the model when the block ends.

        Raises:
            ModelError: the model or the tokenizer cannot be loaded.
        """
        checkpoints = self.checkpoints()
        check_packages(checkpoints, self.load_in_4bit)
        tokenizer = load_tokenizer(checkpoints)
        with Loader(checkpoints, self.dtype, self.load_in_4bit, self.device).model(checkpoints[-1]) as model:
            yield model, tokenizer
        gc.collect()


def _weights(folder: Path) -> list[Path]:
    suffixes = {".safetensors", ".bin", ".json", ".gguf"}
    return [path for path in sorted(folder.iterdir()) if path.suffix in suffixes] if folder.is_dir() else []


# ------------------------------------------------------------------------------------------------------ measuring


def score(
    choice: ModelChoice,
    evaluator: NeuronXAEvaluator,
    folder: Path,
    notes: list[str],
    progress: Progress | None = None,
    ranks: Ranks = Ranks(),
) -> list[ScoreLine]:
    """Measure a model on the evaluator's language pairs with its methods and write scores.jsonl; see `measure`."""
    return measure(choice, evaluator, folder / "scores.jsonl", ScoreLine, scores_of, notes, progress, ranks=ranks)


def measure(
    choice: ModelChoice,
    evaluator: NeuronXAEvaluator,
    path: Path,
    kind: type[Line],
    numbers: Callable[[NeuronXAEvaluator, ParallelPairs, Encoded, Encoded, Signature], PairScores | Retrieval],
    notes: list[str],
    progress: Progress | None = None,
    encode: Callable[[Decoder, Sequence[str]], Encoded] | None = None,
    prepare: Callable[[Decoder, Sequence[ParallelPairs]], None] | None = None,
    ranks: Ranks = Ranks(),
) -> list[Line]:
    """Measure a model on the evaluator's language pairs that have no line in the file yet.

    Each pair's line is on disk as soon as the pair is done, so a run that was stopped continues where it was. Only one
    encoded source side and one encoded target side are kept in memory, whatever the number of pairs.

    Several processes share the pairs. Each loads the model. If one fails, the others measure their shares before all of
    them raise its error, and the lines are kept.

    Args:
        choice: the model. It is loaded only if a pair is left to measure.
        evaluator: the language pairs and what to read of them. A pair that is too long for the model's context is left
            out.
        path: the JSON-lines file.
        kind: the type of its lines.
        numbers: a function of the evaluator, the language pair, its two encoded sides and their signature. It returns
            a line's numbers with their signature.
        notes: gets a sentence for each language that is left out.
        progress: shows a task that counts the language pairs, without those that other processes measure.
        encode: a function that encodes one side's sentences. None means the evaluator's own.
        prepare: a function that every process calls with the pairs that are left, before it measures its share.
        ranks: the processes that share the work. All of them must make this call.

    Returns:
        the lines of these pairs in their order, without the pairs that were left out.

    Raises:
        ModelError: the model cannot be loaded.
        ValueError: the model cannot be measured (see `NeuronXAEvaluator.check`), or the file holds something else.
        RankError: another process failed.
    """
    keys, done = ranks.first_does(lambda: _known(choice, evaluator, path, kind))
    progress = progress or Progress(disable=True)
    task = progress.add_task(title(choice, ranks), total=len(keys), completed=len(done))
    if len(done) == len(keys):
        return [done[keys[pair.name]] for pair in evaluator.pairs]
    new: list[Line] = []
    with ExitStack() as stack:
        with ranks.together():
            decoder = Decoder.find(*stack.enter_context(choice.loaded()))
            pairs, left_out = evaluator.fitting(decoder)
            evaluator.check(decoder, pairs)
        notes += left_out
        left = [pair for pair in pairs if keys[pair.name] not in done]
        if prepare is not None:
            with ranks.together():
                prepare(decoder, left)
        mine = share(left, lambda pair: length(pair.target), ranks)
        progress.update(task, total=len(pairs) - len(left) + len(mine))

        def line(pair: ParallelPairs, source: Encoded, target: Encoded) -> Line:
            measured = numbers(evaluator, pair, source, target, evaluator.signature(pair, decoder))
            place = {"model": choice.name, "lang": pair.target_lang, "pivot": pair.source_lang}
            return kind.model_validate(place | {"corpus": pair.corpus, "key": keys[pair.name], **dict(measured)})

        with ranks.together():
            for record in evaluator.each(decoder, mine, line, encode):
                append_record(own_file(path, ranks), record)
                new.append(record)
                progress.advance(task)
    done |= put_together(path, new, ranks)
    return [done[keys[pair.name]] for pair in pairs]


def title(choice: ModelChoice, ranks: Ranks) -> str:
    """Return what a progress bar is called that counts one process's share of the work."""
    return choice.name + ("" if ranks.size == 1 else f", the first of {ranks.size} processes")


def _known(
    choice: ModelChoice, evaluator: NeuronXAEvaluator, path: Path, kind: type[Line]
) -> tuple[dict[str, Signature], dict[Signature, Line]]:
    """Return each pair's key, and by their keys the lines of these pairs that are on the disk.

    Of several processes the first alone may ask, because a copy of the model on another machine has files of another
    time, and so another key.
    """
    keys = {pair.name: _key(choice, evaluator, pair) for pair in evaluator.pairs}
    lines = collected(path, kind)
    return keys, {key: lines[key] for key in keys.values() if key in lines}


def _key(choice: ModelChoice, evaluator: NeuronXAEvaluator, pair: ParallelPairs) -> Signature:
    """Return a line's key: every choice that is known before the model is loaded."""
    choices = Signature.of(evaluator.choices(pair))
    return choice.identity.joined(choices).with_fields(version=__version__)


def scores_of(
    evaluator: NeuronXAEvaluator, pairs: ParallelPairs, source: Encoded, target: Encoded, signature: Signature
) -> PairScores:
    """Return a line's scores, also per layer and per pair, with intervals, chance, p-values and the surface control."""
    return of_report(evaluator.report(source, target, signature), pairs)


def pairs_with(corpus: Corpus, pivot: str, languages: Sequence[str]) -> tuple[list[ParallelPairs], list[str]]:
    """Return the pairs of the pivot with each language, and a sentence for each language whose text cannot be used.

    Raises:
        PairsError: the corpus lacks a language, or no language's text can be used.
    """
    wanted = [code for code in languages or corpus.languages if code != pivot]
    for code in (pivot, *languages):
        if code not in corpus.languages:
            corpus.pairs(code, pivot)  # raises with the reason
    pairs, left_out = [], []
    for code in wanted:
        try:
            pairs.append(corpus.pairs(pivot, code))
        except PairsError as error:
            left_out.append(f"{code} is left out: {error}")
    if not pairs:
        raise PairsError(left_out[0] if left_out else f"there is no language beside {pivot}; name one with --langs.")
    return pairs, left_out
