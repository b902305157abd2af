"""The paper's section 2.2 written slowly and plainly: one sentence at a time, loops for Eq. 3 and Eq. 4.

Nothing here uses the package. The FFN's activations are computed anew from its weights and its input.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray
from scipy import stats
from scipy.linalg import subspace_angles
from torch import Tensor

Floats = NDArray[np.float64]


def ffn_inputs(
    model: Any, tokenizer: Any, sentence: str, special_tokens: bool = True
) -> tuple[list[Tensor], list[Tensor]]:
    """Each FFN's input and each hidden state of one sentence, alone and unpadded: lists of (tokens, hidden)."""
    seen: list[Tensor] = []
    hooks = [
        layer.mlp.register_forward_pre_hook(lambda module, args: seen.append(args[0][0]))
        for layer in model.get_decoder().layers
    ]
    ids = torch.tensor([tokenizer(sentence, add_special_tokens=special_tokens)["input_ids"]])
    with torch.no_grad():
        output = model(input_ids=ids, output_hidden_states=True, use_cache=False)
    for hook in hooks:
        hook.remove()
    return seen, [hidden[0] for hidden in output.hidden_states]


def gate_and_input(ffn: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """W_G x + b_G and W_I x + b_I of Eq. 1, from the weights."""
    if hasattr(ffn, "gate_up_proj"):
        both = F.linear(x, ffn.gate_up_proj.weight)
        width = both.shape[-1] // 2
        return both[..., :width], both[..., width:]
    return (F.linear(x, p.weight, p.bias) for p in (ffn.gate_proj, ffn.up_proj))  # type: ignore[return-value]


def token_representations(
    model: Any, tokenizer: Any, sentence: str, representations: Sequence[str]
) -> dict[str, list[Floats]]:
    """n_lt of Eq. 3 for each layer, (tokens, features), of each representation: all from one pass of the model."""
    inputs, hidden_states = ffn_inputs(model, tokenizer, sentence)
    found: dict[str, list[Floats]] = {name: [] for name in representations}
    if "embedding" in found:
        found["embedding"] = [hidden.double().numpy() for hidden in hidden_states]
    with torch.no_grad():
        for layer, x in zip(model.get_decoder().layers, inputs, strict=True):
            if not {"nas", "nav"} & found.keys():
                break
            gate, w_i = gate_and_input(layer.mlp, x)
            activation = getattr(layer.mlp, "act_fn", None) or layer.mlp.activation_fn
            if "nas" in found:
                found["nas"].append((activation(gate) > 0).double().numpy())
            if "nav" in found:
                found["nav"].append((activation(gate) * w_i).abs().double().numpy())
    return found


def pool(tokens: Floats, token_pooling: str) -> Floats:
    """N_l of Eq. 3, one token after the other."""
    count = len(tokens)
    pooled: Floats = np.zeros(tokens.shape[1])
    if token_pooling == "last":
        pooled[:] = tokens[-1]
        return pooled
    for t in range(1, count + 1):
        w_t = t / sum(range(1, count + 1)) if token_pooling == "weighted" else 1 / count
        pooled = pooled + w_t * tokens[t - 1]
    return pooled


def encode_all(
    model: Any, tokenizer: Any, sentences: Any, representations: Sequence[str], token_pooling: str = "weighted"
) -> dict[str, Floats]:
    """(layers, sentences, features) of each representation."""
    encoded: dict[str, list[list[Floats]]] = {name: [] for name in representations}
    for sentence in sentences:
        for name, layers in token_representations(model, tokenizer, sentence, representations).items():
            encoded[name].append([pool(layer, token_pooling) for layer in layers])
    return {name: np.array(of_sentences).transpose(1, 0, 2) for name, of_sentences in encoded.items()}


def encode(model: Any, tokenizer: Any, sentences: Any, representation: str, token_pooling: str = "weighted") -> Floats:
    """(layers, sentences, features)."""
    return encode_all(model, tokenizer, sentences, (representation,), token_pooling)[representation]


def cosine(a: Floats, b: Floats) -> float:
    norms = math.sqrt(float((a * a).sum())) * math.sqrt(float((b * b).sum()))
    return float((a * b).sum()) / norms if norms else 0.0


def alignment(source: Floats, target: Floats) -> list[float]:
    """mu of Eq. 4 at each layer."""
    scores = []
    for s, t in zip(source, target, strict=True):
        n = len(s)
        c = [[cosine(s[i], t[j]) for j in range(n)] for i in range(n)]
        aligned = 0
        for i in range(n):
            if all(c[i][i] > c[i][j] and c[i][i] > c[j][i] for j in range(n) if j != i):
                aligned += 1
        scores.append(aligned / n)
    return scores


def rank_score(source: Floats, target: Floats) -> float:
    """1 - log(rank) / log(n), the mean over both directions and all pairs. Ties count against a pair."""
    n = len(source)
    c = [[cosine(source[i], target[j]) for j in range(n)] for i in range(n)]
    logs = []
    for i in range(n):
        in_row = 1 + sum(1 for j in range(n) if j != i and not c[i][i] > c[i][j] + 1e-12)
        in_column = 1 + sum(1 for j in range(n) if j != i and not c[i][i] > c[j][i] + 1e-12)
        logs += [math.log(in_row), math.log(in_column)]
    return 1 - float(np.mean(logs)) / math.log(n)


def cka(source: Floats, target: Floats) -> float:
    """Kornblith et al. 2019, section 3: ||Y'X||^2 / (||X'X|| ||Y'Y||), from features, not from a kernel."""
    x, y = source - source.mean(axis=0), target - target.mean(axis=0)
    cross, own_x, own_y = (np.linalg.norm(a.T @ b) for a, b in ((y, x), (x, x), (y, y)))
    return float(cross**2 / (own_x * own_y))


def svcca(source: Floats, target: Floats) -> float:
    """Raghu et al. 2017: reduce each side by SVD, then the cosines of the angles between what is left."""
    reduced = []
    for side in (source, target):
        u, s, _ = np.linalg.svd(side - side.mean(axis=0), full_matrices=False)
        kept = next(k for k in range(1, len(s) + 1) if sum(s[:k] ** 2) >= 0.99 * sum(s**2))
        reduced.append(u[:, :kept] * s[:kept])
    return float(np.cos(subspace_angles(*reduced)).mean())


def anc(source: Floats, target: Floats) -> float:
    """Del and Fishel 2022: one neuron after the other."""
    found = []
    for x, y in zip(source.T, target.T, strict=True):
        if np.ptp(x) > 1e-9 and np.ptp(y) > 1e-9:
            found.append(abs(stats.pearsonr(x, y).statistic))
    return float(np.mean(found))


def sads(source: Floats, target: Floats) -> float:
    """Zeng et al. 2025: mean cosine of translation pairs minus mean cosine of the rest."""
    n = len(source)
    own = [cosine(source[i], target[i]) for i in range(n)]
    rest = [cosine(source[i], target[j]) for i in range(n) for j in range(n) if i != j]
    return float(np.mean(own) - np.mean(rest))


def signed_sums(model: Any, tokenizer: Any, sentence: str) -> list[Floats]:
    """Zeng et al. 2025: the down projection's input at each layer, summed over the tokens, without special tokens."""
    inputs, _ = ffn_inputs(model, tokenizer, sentence, special_tokens=False)
    sums = []
    with torch.no_grad():
        for layer, x in zip(model.get_decoder().layers, inputs, strict=True):
            gate, w_i = gate_and_input(layer.mlp, x)
            activation = getattr(layer.mlp, "act_fn", None) or layer.mlp.activation_fn
            total: Floats = np.zeros(w_i.shape[1])
            for token in (activation(gate) * w_i).double().numpy():
                total = total + token
            sums.append(total)
    return sums


def sads_of_its_source(model: Any, tokenizer: Any, source: Any, target: Any) -> float:
    """Zeng et al. 2025: all layers' neurons as one vector for each sentence."""
    one, other = (
        np.array([np.concatenate(signed_sums(model, tokenizer, s)) for s in side]) for side in (source, target)
    )
    return sads(one, other)


def measure(source: Floats, target: Floats, method: str) -> list[float]:
    """Any method at each layer."""
    functions = {"cka": cka, "svcca": svcca, "anc": anc, "sads": sads, "nasca_rank": rank_score}
    if method not in functions:
        return alignment(source, target)
    return [functions[method](s, t) for s, t in zip(source, target, strict=True)]
