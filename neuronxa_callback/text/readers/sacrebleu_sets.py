"""Rows of the test sets that sacrebleu knows, such as "wmt21:en-is". It downloads them, and keeps them on the disk."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from neuronxa_callback.text.languages import PairsError
from neuronxa_callback.text.readers.rows import Located

_NAME = re.compile(r"([\w./-]+):([A-Za-z_]{2,8}-[A-Za-z_]{2,8})")


def is_test_set(spec: Any) -> bool:
    """Return whether this looks like the name of a test set and two languages, such as "wmt21:en-is"."""
    match = _NAME.fullmatch(spec) if isinstance(spec, str) else None
    return match is not None and (match[1] in _sets() or match[1].startswith(("wmt", "iwslt", "mtedx", "multi30k")))


def set_rows(spec: str, reference: str | None) -> Located:
    """Yield the sentences of a test set with a reference: the first that sacrebleu uses, or the one that is named.

    Raises:
        PairsError: sacrebleu does not know the test set, the languages or the reference, or cannot get the text.
    """
    name, _, pair = spec.partition(":")
    if name not in _sets():
        raise PairsError(f"sacrebleu has no test set {name}; `sacrebleu --list` names those it has.")
    dataset = _sets()[name]
    if pair not in dataset.langpairs:
        raise PairsError(f"{name} has no {pair}; it has {', '.join(dataset.langpairs)}.")
    source, target = _files(spec, dataset, pair, reference)
    with source.open(encoding="utf-8", newline="\n") as first, target.open(encoding="utf-8", newline="\n") as second:
        for number, sides in enumerate(zip(first, second, strict=True), start=1):
            yield f"line {number} of {spec}", dict(zip(pair.split("-"), sides, strict=True))


def _sets() -> dict[str, Any]:
    from sacrebleu.dataset import DATASETS

    return dict(DATASETS)


def _files(spec: str, dataset: Any, pair: str, reference: str | None) -> tuple[Path, Path]:
    """Return the files with the source and the reference; sacrebleu downloads and unpacks them where it must."""
    from sacrebleu.utils import SACREBLEU_DIR

    cache = Path(SACREBLEU_DIR) / dataset.name / "raw"
    archives = [cache / f"{dataset.name.replace('/', '_')}.{Path(url).name}" for url in dataset.data]
    remedy = f"run `sacrebleu -t {dataset.name} -l {pair} --echo src` where there is a network, and copy {cache.parent}"
    # The variable forbids the package all downloads, whoever makes them.
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE") and not all(map(_is_there, archives)):
        raise PairsError(f"{spec} is not in {cache}, and HF_HUB_OFFLINE forbids to download it; {remedy}.")
    try:
        fields = dict(zip(dataset.fieldnames(pair), dataset.get_files(pair), strict=True))
        usual = dataset.get_reference_files(pair)
    # sacrebleu leaves the errors of urllib, tarfile, zipfile and lxml as they are, and ends the process on others.
    except (Exception, SystemExit) as error:
        for archive in archives:
            if archive.is_file() and not archive.stat().st_size:
                archive.unlink()  # what a failed download leaves
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise PairsError(f"sacrebleu cannot give {spec} ({reason}); {remedy}.") from None
    if reference is None and usual:
        return Path(fields["src"]), Path(usual[0])
    names = [field.removeprefix("ref").removeprefix(":") for field in fields if field.startswith("ref")]
    reference = names[0] if reference is None and names else reference
    if reference not in names:
        there = ", ".join(name or "an unnamed one" for name in names)
        raise PairsError(f"{spec} has no reference {reference}; it has {there}.")
    return Path(fields["src"]), Path(fields[f"ref:{reference}" if reference else "ref"])


def _is_there(archive: Path) -> bool:
    return archive.is_file() and archive.stat().st_size > 0
