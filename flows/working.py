"""The process of `cifer site start`: its environment first, since Prefect reads that when it is imported."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path

from cifer_tasks import logs
from cifer_tasks.errors import UsageError
from cifer_tasks.site_home import SiteHome, the_site
from cifer_tasks.workspace import Workspace, home_folder, make_importable
from flows.launch import QUIET
from flows.services.kinds import QUIET as SILENT


def work(say: Callable[[str], None]) -> None:
    """Do what the coordinator asks of this folder's site, until stopped. Raises `UsageError` when it has joined no network."""
    home = home_folder()
    site = the_site(home)
    if not site.network:
        msg = f"{site.name} has joined no network; `cifer site join INVITATION` first"
        raise UsageError(msg)
    os.environ.update(environment(site))
    if not logs.wanted():
        logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    make_importable(Path(site.base))
    from flows.runner import Runner

    try:
        Runner(site, say).run()
    finally:
        Workspace.close_all()


def environment(site: SiteHome) -> Mapping[str, str]:
    """What Prefect is told in a site's process: which server, and to keep to itself."""
    own = {"PREFECT_HOME": str(home_folder() / "prefect"), "PREFECT_API_URL": f"{site.prefect}/api"}
    return {**SILENT, **QUIET, **own, "PREFECT_CLIENT_CSRF_SUPPORT_ENABLED": "false"}
