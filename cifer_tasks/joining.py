"""Sites that join a run under way: whoever is ready gets a place from the next round on, as long as `rounds.max_sites` leaves room.

Ready is who is enrolled on the ledger as every site of the run was: with a table of its own, a consent to the run's purpose that stands,
and an encryption key where the scheme wants one. What a place is, and that there is room for it, are the ledger's rules (R14 to R17 of
SPEC.md); from its first round on a site is drawn, left out, judged and replayed like any other.
"""

from __future__ import annotations

from cifer_tasks.errors import ConfigError
from cifer_tasks.network import COORDINATOR
from cifer_tasks.records import Dataset, RunRef
from cifer_tasks.sampling import draw_size
from cifer_tasks.steps import step
from cifer_tasks.workspace import SiteFailed, SiteJoined, Workspace
from ledger import AdmitSite


@step("admit[{number}]", retries=2)
def admit(run: RunRef, number: int, tables: tuple[Dataset, ...]) -> tuple[str, ...]:
    """Give the sites of these tables a place in the run, from round `number` on, which is not open yet. Returns those that got one.

    Whoever gets none is announced, with why.
    """
    workspace, admitted = Workspace.of(run), []
    for table in tables:
        if reason := refusal(workspace, number, table):
            turn_away(workspace, number, table.site, reason)
            continue
        workspace.author(COORDINATOR).send(AdmitSite(run.run, table.site, bytes.fromhex(table.sha256), number))
        workspace.announce(SiteJoined(number, table.site))
        admitted.append(table.site)
    return tuple(admitted)


def turn_away(workspace: Workspace, number: int, site: str, reason: str) -> None:
    """Say why a site does not join, unless that was said when it was looked at last."""
    if workspace.turned_away.get(site) != reason:
        workspace.turned_away[site] = reason
        workspace.announce(SiteFailed(number, site, f"{site} does not join: {reason}"))


def is_ready(workspace: Workspace, table: Dataset) -> bool:
    """Whether a site without a place in the run is enrolled on the ledger, so that it could have one."""
    record, sha256 = workspace.record, bytes.fromhex(table.sha256)
    entry, consent = record.state.dataset(sha256), record.state.consent(sha256, record.declared.purpose)
    keyed = not workspace.scheme.key_per_site or record.state.encryption_key(table.site) is not None
    enrolled = entry is not None and entry.owner == table.site and consent is not None and consent.live
    return enrolled and keyed and record.declared.dataset_of(table.site) is None


def has_room(workspace: Workspace) -> bool:
    """Whether the run has a place left."""
    declared = workspace.record.declared
    return len(declared.places) < declared.maximum_sites


def refusal(workspace: Workspace, number: int, table: Dataset) -> str:
    """Why the site of `table` gets no place from round `number` on, "" when it does."""
    record, settings = workspace.record, workspace.settings
    declared, most = record.declared, settings.rounds.max_sites
    if not has_room(workspace):
        room = f"has places for {most} sites, and all are taken" if most else "stays with the sites of its start"
        return f"run {declared.run} {room} (rounds.max_sites={most}); {table.site} may take part in the next run"
    members = len({*record.members(number), table.site})
    fewest = max(declared.minimum_sites, workspace.scheme.smallest_set(members))
    if (size := draw_size(members, settings.sites.fraction)) < fewest:
        return f"sites.fraction={settings.sites.fraction} draws {size} of {members} sites, and a round of so many needs {fewest}"
    if 0 < settings.rounds.buffer < fewest:
        return f"rounds.buffer={settings.rounds.buffer} closes a round, and one of {members} sites needs {fewest}"
    try:
        workspace.encoding(number).joined_by([table.rows])
    except (ValueError, ConfigError) as error:
        return f"its {table.rows} rows are more than the sums of this run are exact for: {error}"
    return ""
