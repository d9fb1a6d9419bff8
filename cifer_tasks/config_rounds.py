"""The settings about how rounds go: when one closes, what becomes of late updates, simulated delays, which processes do the work."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

SiteName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,30}$")]
Seconds = Annotated[float, Field(ge=0.0, le=1e6)]

OTHERS: Final = "others"
"""In `simulation.delays`: every site that is not named there."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=False, allow_inf_nan=False)


class Rounds(_Section):
    """When a round closes, and what becomes of updates that come after.

    mode: a `synchronous` round closes when all the sites that were asked are in, a `buffered` one when `buffer` of them are; both close
    at `sites.deadline_seconds`, and end the run if fewer than `sites.minimum` are in by then.
    late: `refuse` an update that comes after its round closed, or `carry` it into the round that is open then, encrypted anew for that one
    and counting less (FedBuff, Nguyen et al. 2022).  max_staleness: how many rounds later that may be; older ones are given up.
    max_sites: how many sites the run may come to have: who gets ready while it is under way joins with the next round, as long as there is
    room; 0: it stays with those of its start.
    """

    mode: Literal["synchronous", "buffered"] = "synchronous"
    buffer: int = Field(default=0, ge=0)
    late: Literal["refuse", "carry"] = "refuse"
    max_staleness: int = Field(default=4, ge=1, le=100)
    max_sites: int = Field(default=0, ge=0, le=1000)

    @model_validator(mode="after")
    def _buffer_fits(self) -> Rounds:
        if (self.mode == "buffered") != (self.buffer > 0):
            msg = "rounds.buffer is the number of updates at which a round closes under rounds.mode: buffered; set both or neither"
            raise ValueError(msg)
        return self

    @property
    def staleness(self) -> int:
        """How many rounds an update may be late: 0 under `late: refuse`."""
        return self.max_staleness if self.late == "carry" else 0


class Simulation(_Section):
    """Under `execution: local`, sites that are slow for research: no clock is read and nobody waits, so that a seed gives one model.

    delays: site -> [shortest, longest] seconds that its part of a round takes, drawn evenly for each round from `seed`; the name `others`
    stands for every site that is not named. Sites without a delay take no time.
    """

    delays: dict[SiteName, tuple[Seconds, Seconds]] = {}

    @model_validator(mode="after")
    def _ordered(self) -> Simulation:
        for site, (shortest, longest) in self.delays.items():
            if shortest > longest:
                msg = f"simulation.delays: {site} takes {shortest:g} to {longest:g} seconds; give the shorter first"
                raise ValueError(msg)
        return self


class Compute(_Section):
    """`compute`: under `execution: local`, who does the sites' part of a round up to what they submit: validating, training, encrypting.

    engine: `inline`, this process, one site after the other; or the workers of a `dask` or `ray` cluster, which must reach CIFER_HOME.
    The model is the same.  workers: how many processes this machine's own cluster has, 0: one a core.  address: of a cluster that runs
    already, e.g. tls://host:8786 (Dask) or ray://host:10001 (Ray); empty: one of this machine's own, that ends with the run.  fused: a
    site is one task of the round, not five, which is quicker and shows less; of more than eight sites each always is.
    """

    engine: Literal["inline", "dask", "ray"] = "inline"
    workers: int = Field(default=0, ge=0, le=1000)
    address: str = ""
    fused: bool = False

    @model_validator(mode="after")
    def _one_cluster(self) -> Compute:
        if self.engine == "inline" and (self.workers or self.address):
            msg = "compute.workers and compute.address are for compute.engine: dask or ray; set one, or leave them out"
            raise ValueError(msg)
        if self.workers and self.address:
            msg = "compute.workers is the size of this machine's own cluster, and the one at compute.address has its own; set one of them"
            raise ValueError(msg)
        return self
