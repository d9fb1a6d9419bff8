"""What goes wrong in one simulated run, drawn from a seed.

Twins (Bano et al., *Twins: BFT Systems Made Robust*, 2020): an equivocating validator is two correct instances that share one identity
and are shown different parts of the network. Cuts follow rounds and steps instead of time, since that is where agreement breaks: uniformly
random loss almost never separates "locked" from "decided".
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from ledger.consensus.messages import Step

DISTURBED_ROUNDS = 3
FULL_MESH = 0.35
GROUPS = 0.4


@dataclass(frozen=True, slots=True)
class Cut:
    """Who hears whom, for messages of one height, round and step: `hears[receiver]` is a set of senders (instance numbers)."""

    hears: tuple[frozenset[int], ...]


@dataclass(frozen=True, slots=True)
class Crash:
    """`instance` stops at its `at_record`-th durable record, before or after the vote on it has left, for `down_ms`."""

    instance: int
    at_record: int
    vote_leaves: bool
    down_ms: int


@dataclass(frozen=True, slots=True)
class Scenario:
    """One run: `instances[i]` is the validator that instance i speaks for; a validator with two instances is the faulty one.

    cuts: by (height, round, step); what is not listed is a full mesh.  loss, duplication: per mille, until `calm_ms`.
    delay_ms: longest delay of a message.  heights: how far every correct instance must come.
    """

    seed: int
    validators: int
    instances: tuple[int, ...]
    cuts: dict[tuple[int, int, int], Cut]
    crashes: tuple[Crash, ...]
    loss: int
    duplication: int
    delay_ms: int
    calm_ms: int
    heights: int

    @property
    def faulty(self) -> frozenset[int]:
        """Validators with more than one instance."""
        return frozenset(validator for validator in self.instances if self.instances.count(validator) > 1)


def draw(seed: int, validators: int = 4, twins: int = 1) -> Scenario:
    """The scenario of a seed: the same for the same arguments, in any process."""
    random = Random(seed)  # noqa: S311 - a reproducible schedule, not a secret
    doubled = random.sample(range(validators), twins)
    instances = (*range(validators), *doubled)
    heights = 2
    cuts = {
        (height, round_, int(step)): _cut(random, len(instances))
        for height in range(1, heights + 1)
        for round_ in range(random.randint(1, DISTURBED_ROUNDS))
        for step in (Step.PROPOSE, Step.PREVOTE, Step.PRECOMMIT)
    }
    honest = [number for number, validator in enumerate(instances) if validator not in doubled]
    crashes = tuple(
        Crash(random.choice(honest), random.randint(1, 6), random.random() < 0.75, random.choice((5, 50, 800)))
        for _ in range(random.choice((0, 0, 1, 2)))
    )
    noisy = random.random() < 0.5
    return Scenario(
        seed=seed,
        validators=validators,
        instances=instances,
        cuts=cuts,
        crashes=crashes,
        loss=random.choice((10, 50, 150)) if noisy else 0,
        duplication=random.choice((0, 100)) if noisy else 0,
        delay_ms=random.choice((1, 10, 60)),
        calm_ms=1_500,
        heights=heights,
    )


def _cut(random: Random, count: int) -> Cut:
    everybody = frozenset(range(count))
    shape = random.random()
    if shape < FULL_MESH:
        return Cut((everybody,) * count)
    if shape < FULL_MESH + GROUPS:
        side = [random.random() < 0.5 for _ in range(count)]
        return Cut(tuple(frozenset(other for other in everybody if side[other] == side[own]) for own in range(count)))
    hearing = [random.random() < 0.5 for _ in range(count)]
    return Cut(tuple(everybody if hearing[own] else frozenset((own,)) for own in range(count)))
