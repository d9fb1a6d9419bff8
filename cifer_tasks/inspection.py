"""Submissions that no honest site makes: a key holder whose sum does not open names them, and the round goes on without them.

For families whose key holders can open single submissions (`plain`, `ckks`), and rules that do not measure: what `norm_clip` and its like
find in statistics is found here in the clear, by the holder, and only where the sum over the sealed set is spoilt, or where the rule reads
submissions in the clear anyway. On the ledger it looks as there: the holder signs a fault (`round.measure`), the coordinator a weight of 0
(`round.weigh`), whoever releases looks at those named again, and reputation follows.
"""

from __future__ import annotations

import numpy as np

from cifer_tasks.aggregation.rules import WEIGHT_ONE
from cifer_tasks.aggregation.weighing import FEWEST_WEIGHTED, Decision, Weighed
from cifer_tasks.encryption._shared import SharedKeyScheme
from cifer_tasks.encryption.vectors import floats_to_bytes
from cifer_tasks.errors import IntegrityError, TooFewSitesError
from cifer_tasks.records import ArtifactRef, Plan, SealedSet
from cifer_tasks.workspace import Workspace
from ledger import MeasureRound, SiteStatistics


def spoilt(workspace: Workspace, site: str, sealed: SealedSet) -> dict[str, str]:
    """Which submissions of a sealed set the key holder `site` finds to be none that an honest site makes, and why.

    None where single submissions stay closed, and none where all of them look so: then what is wrong is not theirs.
    """
    found = _inspected(workspace, site, sealed, {item.site for item in sealed.submissions})
    return found if len(found) < len(sealed.submissions) else {}


def _inspected(workspace: Workspace, site: str, sealed: SealedSet, names: set[str]) -> dict[str, str]:
    if not isinstance(workspace.scheme, SharedKeyScheme):
        return {}
    encoding, chosen = workspace.encoding(sealed.round), [item for item in sealed.submissions if item.site in names]
    counted = workspace.record.counted_rows(sealed)
    limits = {item.site: encoding.site_bound(counted[item.site]) for item in chosen}
    submissions = workspace.submissions(sealed)
    return workspace.scheme.inspect(
        {name: submissions[name] for name in limits}, limits, workspace.secret_context(site, sealed.round), site
    )


def name_spoilt(workspace: Workspace, number: int, site: str, sealed: SealedSet, total: ArtifactRef, found: dict[str, str]) -> str:
    """Sign onto the ledger which submissions of a sealed set are at fault; one line that says so.

    No numbers were opened, so squares and inner products are 0; the reference is zeros, and what was measured is the sum that stays closed.
    """
    reference = workspace.store.put("reference", floats_to_bytes(np.zeros(workspace.record.declared.parameters, np.float32)))
    statistics = tuple(SiteStatistics(item.site, 0, 0, found.get(item.site, "")) for item in sealed.submissions)
    digests = bytes.fromhex(reference.digest), bytes.fromhex(total.digest)
    workspace.author(site).send(MeasureRound(workspace.ref.run, number, *digests, statistics))
    named = "; ".join(f"{name}: {reason}" for name, reason in found.items())
    return f"round {number}: the sum over the sealed set stays closed, and goes on without {named}"


def without_spoilt(workspace: Workspace, number: int, sealed: SealedSet) -> Decision:
    """The mean of a sealed set without those that the first key holder named. Raises `TooFewSitesError` below the run's minimum."""
    faults = {item.site: item.fault for item in workspace.record.round(number).statistics[0].statistics}
    kept = [item for item in sealed.submissions if not faults[item.site]]
    least = max(workspace.fewest(number), FEWEST_WEIGHTED)
    if len(kept) < least:
        named = "; ".join(f"{name}: {reason}" for name, reason in faults.items() if reason)
        msg = f"round {number} keeps {len(kept)} submissions and needs {least}; at fault: {named}"
        raise TooFewSitesError(msg)
    sites = tuple(Weighed(item.site, 0 if faults[item.site] else WEIGHT_ONE, 0, faults[item.site]) for item in sealed.submissions)
    counted = workspace.record.counted_rows(sealed)
    return Decision(sites, WEIGHT_ONE * sum(counted[item.site] for item in kept))


def check_named(workspace: Workspace, number: int, site: str, sealed: SealedSet, plan: Plan) -> None:
    """Raise `IntegrityError` unless `site` finds every submission at fault that a plan leaves out for one: nobody is named in vain."""
    named = {item.site for item in plan.weights if not item.weight}
    if innocent := sorted(named - set(_inspected(workspace, site, sealed, named))):
        msg = f"round {number}: {site} releases nothing: {', '.join(innocent)} is left out as spoilt, and is not"
        raise IntegrityError(msg)
