"""What the package asks for: the lowest versions that the tests run with, which leave other trainers' alone."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from tests.support import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
# The oldest torch is a download of several gigabytes, so both environments have the newest. The extras
# `dev` and `docs` are for developers, and `recipes` asks for what `make test` runs with.
NOT_HELD = ("torch", "dev", "docs", "recipes")
TRAINERS = sorted((ROOT / "tests" / "data" / "requirements").glob("*.txt"))

pytestmark = pytest.mark.unit


def asked() -> dict[str, list[Requirement]]:
    """The requirements of the bare package, under "", and of each extra that a user may install."""
    extras = {"": PROJECT["dependencies"], **PROJECT["optional-dependencies"]}
    return {
        extra: [r for r in map(Requirement, lines) if r.name not in (PROJECT["name"], *NOT_HELD)]
        for extra, lines in extras.items()
        if extra not in NOT_HELD
    }


def lowest(requirement: Requirement) -> Iterator[Version]:
    return (Version(bound.version) for bound in requirement.specifier if bound.operator == ">=")


def lines_of(path: Path) -> dict[str, Requirement]:
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    return {named(requirement.name): requirement for requirement in map(Requirement, lines)}


def named(package: str) -> str:
    return package.lower().replace("_", "-")


def test_the_tests_run_with_the_lowest_versions() -> None:
    """`make test-compat` does: its environment has each lower bound of pyproject.toml as a pin."""
    pins = lines_of(ROOT / "constraints-compat.txt")
    for requirements in asked().values():
        for requirement in requirements:
            for bound in lowest(requirement):
                assert pins[named(requirement.name)].specifier.contains(bound), requirement


def test_every_requirement_has_a_bound() -> None:
    assert [str(r) for requirements in asked().values() for r in requirements if not r.specifier] == []


@pytest.mark.parametrize("path", TRAINERS, ids=lambda path: path.stem)
def test_other_trainers_versions_are_left_alone(path: Path) -> None:
    """No lower bound lies above what another trainer allows; `make beside` installs them for real."""
    allowed = lines_of(path)
    shared = [r for extra in ("", "train", "zst") for r in asked()[extra] if named(r.name) in allowed]
    assert len(shared) >= 8
    for requirement in shared:
        for bound in lowest(requirement):
            assert _reaches(allowed[named(requirement.name)], bound), (requirement, allowed[named(requirement.name)])


def _reaches(allowed: Requirement, bound: Version) -> bool:
    """Whether a version that is allowed is `bound` or a later one: no upper limit lies below it."""
    assert {limit.operator for limit in allowed.specifier} <= {"==", "<=", "<", ">=", ">", "!="}, allowed
    exact = [Version(limit.version) for limit in allowed.specifier if limit.operator in ("==", "<=")]
    below = [Version(limit.version) for limit in allowed.specifier if limit.operator == "<"]
    return all(limit >= bound for limit in exact) and all(limit > bound for limit in below)
