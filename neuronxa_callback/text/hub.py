"""What the hub and the package datasets say of a data set that cannot be had, in one sentence."""

from __future__ import annotations

import re

_GATED = re.compile(r"\bgated\b", re.IGNORECASE)
REASON_LENGTH = 200  # characters of an error's own words


def refusal(text: str, dataset: str, error: Exception, fault: str, remedy: str) -> str:
    """The sentence for a data set that was asked for and not given.

    Args:
        text: what the user called it.
        dataset: its name on the hub, whose page has the terms of a gated one.
        error: what datasets or huggingface_hub raised.
        fault: the verb and what follows, for one that is not gated: "cannot be read".
        remedy: what to do about one that is not gated.
    """
    from datasets.exceptions import DatasetNotFoundError
    from huggingface_hub.errors import HfHubHTTPError

    if isinstance(error, DatasetNotFoundError | HfHubHTTPError) and _GATED.search(str(error)):
        return (
            f"{text} is gated: accept its terms on https://huggingface.co/datasets/{dataset} and run `hf auth login`."
        )
    reason = " ".join(str(error).split())[:REASON_LENGTH].rstrip(". ") or type(error).__name__
    return f"{text} {fault} ({reason}); {remedy}."
