"""One sentence for the user when the hub or the package datasets cannot give a data set."""

from __future__ import annotations

import re

_GATED = re.compile(r"\bgated\b", re.IGNORECASE)
REASON_LENGTH = 200  # characters kept of an error's own message


def refusal(text: str, dataset: str, error: Exception, fault: str, remedy: str) -> str:
    """Return the sentence that says why a data set cannot be read.

    Args:
        text: the user's name for the text.
        dataset: the data set's name on the hub. The terms of a gated data set are on its page.
        error: the exception that datasets or huggingface_hub raised.
        fault: the words after `text` if the data set is not gated, such as "cannot be read".
        remedy: what the user can do if the data set is not gated.
    """
    from datasets.exceptions import DatasetNotFoundError
    from huggingface_hub.errors import HfHubHTTPError

    if isinstance(error, DatasetNotFoundError | HfHubHTTPError) and _GATED.search(str(error)):
        return (
            f"{text} is gated: accept its terms on https://huggingface.co/datasets/{dataset} and run `hf auth login`."
        )
    reason = " ".join(str(error).split())[:REASON_LENGTH].rstrip(". ") or type(error).__name__
    return f"{text} {fault} ({reason}); {remedy}."
