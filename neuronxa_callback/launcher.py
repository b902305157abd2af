"""What a launcher such as torchrun or accelerate tells each of its processes. Importing this module loads no torch."""

from __future__ import annotations

import os


def is_launched() -> bool:
    """Return whether a launcher started this process, alone or as one of several.

    Some clusters set RANK and WORLD_SIZE for their machines. Launchers of processes also set LOCAL_RANK.
    """
    return {"RANK", "LOCAL_RANK"} <= os.environ.keys()


def are_several() -> bool:
    """Return whether a launcher started several processes, of which this is one."""
    return is_launched() and int(os.environ.get("WORLD_SIZE", "1")) > 1


def is_first() -> bool:
    """Return whether this process is the only one or the first of several."""
    return not are_several() or os.environ["RANK"] == "0"
