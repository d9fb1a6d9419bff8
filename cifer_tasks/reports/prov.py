"""W3C PROV as PROV-JSON (W3C Member Submission, 24 April 2013): entities, activities, agents, and how they hang together."""

from __future__ import annotations

from typing import Any

from cifer_tasks.reports.facts import Facts
from ledger.provenance import RoundHistory
from ledger.state.entries import Origin, Submission

Json = dict[str, Any]


def prov_document(facts: Facts) -> Json:
    """The whole history: tables -> submissions -> sums -> models, by whom and on whose behalf, each with the transaction that says so."""
    return _Drawing(facts).document()


class _Drawing:
    """A PROV document under construction. Relations are numbered as they come, so the same history gives the same document."""

    def __init__(self, facts: Facts) -> None:
        self.facts = facts
        self.parts: dict[str, Json] = {}

    def document(self) -> Json:
        run = self.facts.history.run
        self.thing("agent", self.agent(run.coordinator), {"prov:type": "prov:SoftwareAgent", "cifer:role": "coordinator"})
        self.thing("activity", self.run(), {"prov:type": "cifer:Training", "cifer:purpose": run.purpose, "cifer:scheme": run.scheme})
        self.relate("wasAssociatedWith", activity=self.run(), agent=self.agent(run.coordinator))
        self.thing("entity", self.settings(), {"prov:type": "prov:Plan", "cifer:sha256": run.config_digest.hex()})
        self.relate("used", activity=self.run(), entity=self.settings())
        self.model(run.initial_model)
        for site in run.sites:
            self.thing(
                "agent",
                self.agent(site.site),
                {"prov:type": "prov:Organization", "cifer:role": "site", "cifer:publicKey": site.public_key.hex()},
            )
            about = {
                "prov:type": "prov:Collection",
                "cifer:sha256": site.dataset.hex(),
                "cifer:rows": site.rows,
                "cifer:name": site.dataset_name,
            }
            if site.withdrawn is not None:
                about["cifer:consentWithdrawnAtHeight"] = site.withdrawn.height
            self.thing("entity", self.table(site.dataset), about | _evidence(site.registered))
            self.relate("wasAttributedTo", entity=self.table(site.dataset), agent=self.agent(site.site))
        for found in run.rounds:
            self.round(found)
        version = self.named(f"version.{self.facts.history.name}.{self.facts.history.version}")
        aliases = ", ".join(self.facts.history.aliases)
        self.thing(
            "entity", version, {"prov:type": "cifer:ModelVersion", "cifer:aliases": aliases} | _evidence(self.facts.history.registered)
        )
        self.relate("specializationOf", specificEntity=version, generalEntity=self.model(self.facts.history.model))
        return {"prefix": {"cifer": f"{self.facts.network_name}#"}, **self.parts}

    def round(self, found: RoundHistory) -> None:
        activity = self.named(f"round.{self.facts.history.run.run}.{found.round}")
        self.thing("activity", activity, {"prov:type": "cifer:Round", "cifer:status": found.status} | _evidence(found.opened))
        self.relate("wasStartedBy", activity=activity, starter=self.run())
        self.relate("used", activity=activity, entity=self.model(found.base_model))
        sealed = [self.submission(found, item) for item in found.submissions if item.site in found.sealed_sites]
        if found.outcome is None:
            return
        total = self.named(f"sum.{found.outcome.opened.hex()[:32]}")
        self.thing("entity", total, {"prov:type": "cifer:OpenedSum", "cifer:sha256": found.outcome.opened.hex()})
        self.relate("wasGeneratedBy", entity=total, activity=activity)
        for update in sealed:
            self.relate("used", activity=activity, entity=update)
            self.relate("wasDerivedFrom", generatedEntity=total, usedEntity=update)
        candidate = self.model(found.outcome.candidate)
        self.relate("wasGeneratedBy", entity=candidate, activity=activity)
        self.relate("wasDerivedFrom", generatedEntity=candidate, usedEntity=total)
        self.relate("wasDerivedFrom", generatedEntity=candidate, usedEntity=self.model(found.base_model))

    def submission(self, found: RoundHistory, item: Submission) -> str:
        update = self.named(f"update.{item.ciphertext.hex()[:32]}")
        training = self.named(f"training.{self.facts.history.run.run}.{found.round}.{item.site}")
        self.thing("entity", update, {"prov:type": "cifer:EncryptedUpdate", "cifer:rows": item.rows} | _evidence(item.origin))
        self.thing("activity", training, {"prov:type": "cifer:LocalTraining"})
        self.relate("wasGeneratedBy", entity=update, activity=training)
        self.relate("used", activity=training, entity=self.table(item.dataset))
        self.relate("used", activity=training, entity=self.model(found.base_model))
        self.relate("wasAssociatedWith", activity=training, agent=self.agent(item.site))
        self.relate("wasAttributedTo", entity=update, agent=self.agent(item.site))
        return update

    def model(self, digest: bytes) -> str:
        name = self.named(f"model.{digest.hex()[:32]}")
        self.thing("entity", name, {"prov:type": "cifer:Model", "cifer:sha256": digest.hex()})
        return name

    def table(self, digest: bytes) -> str:
        return self.named(f"table.{digest.hex()[:32]}")

    def agent(self, name: str) -> str:
        return self.named(f"party.{name}")

    def run(self) -> str:
        return self.named(f"run.{self.facts.history.run.run}")

    def settings(self) -> str:
        return self.named(f"settings.{self.facts.history.run.config_digest.hex()[:32]}")

    @staticmethod
    def named(local: str) -> str:
        return f"cifer:{local}"

    def thing(self, kind: str, name: str, about: Json) -> None:
        self.parts.setdefault(kind, {})[name] = {key: _literal(key, value) for key, value in about.items()}

    def relate(self, kind: str, **ends: str) -> None:
        known = self.parts.setdefault(kind, {})
        relation = {f"prov:{role}": name for role, name in ends.items()}
        if relation not in known.values():
            known[f"_:{kind}{len(known) + 1}"] = relation


def _evidence(origin: Origin) -> Json:
    return {"cifer:transaction": origin.transaction.hex(), "cifer:height": origin.height}


def _literal(key: str, value: Any) -> Any:
    return {"$": value, "type": "prov:QUALIFIED_NAME"} if key == "prov:type" else value
