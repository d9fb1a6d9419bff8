"""Key material shared by the encryption tests: making it is the slow part, and no test changes it."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from cifer_tasks.config import Encryption
from cifer_tasks.encryption import PublicContext, Scheme, SecretContext, scheme_for


@dataclass(frozen=True)
class Keyed:
    """A configured scheme with two independent key pairs."""

    scheme: Scheme
    public: PublicContext
    secret: SecretContext
    other_public: PublicContext
    other_secret: SecretContext


def make(settings: Encryption) -> Keyed:
    """Fresh keys for these settings."""
    scheme = scheme_for(settings)
    return Keyed(scheme, *scheme.generate(), *scheme.generate())


@pytest.fixture(scope="session")
def families() -> dict[str, Keyed]:
    """Every shipped family and preset, by name."""
    return {
        "plain": make(Encryption(scheme="plain")),
        "lean": make(Encryption(scheme="ckks", preset="lean", bits=24)),
        "nvflare": make(Encryption(scheme="ckks", preset="nvflare", bits=24)),
    }


@pytest.fixture(params=["plain", "lean", "nvflare"])
def keyed(request: pytest.FixtureRequest, families: dict[str, Keyed]) -> Keyed:
    """Each family in turn."""
    return families[request.param]


@pytest.fixture
def lean(families: dict[str, Keyed]) -> Keyed:
    """The default family."""
    return families["lean"]
