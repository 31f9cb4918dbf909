"""A model registry in memory, with a named point before each request to it.

And comparisons with a champion whose results are known.
"""

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST

from detreg.tracking import registered_model, registry
from detreg.tracking.decision import Candidate, Evidence
from detreg.tracking.registry import Promotion

IMAGES = 100


def promote_by_score(score: float, rule: str = "better") -> Promotion:
    """Let the higher score win without any doubt, as if both had been measured on many images."""

    def measure(champion: Candidate) -> Evidence:
        champion_score = 0.0 if math.isnan(champion.score) else champion.score
        difference = score - champion_score
        return Evidence(IMAGES, score, champion_score, difference, difference)

    return Promotion(rule, measure)


@dataclass
class FakeVersion:
    """A model version, with the attributes that detreg reads."""

    version: int
    creation_timestamp: int
    tags: dict[str, str]


@dataclass
class FakeModel:
    versions: dict[int, FakeVersion] = field(default_factory=dict)
    aliases: dict[str, int] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    created: int = 0


class Page(list[FakeVersion]):
    token = None


class FakeRegistry:
    """Stands in for MlflowClient and register_model; has one registered model.

    `before_request` is called with the name of each request before it is carried out; what it does
    or raises is what another process does, or a kill, at that point. `answers_lost` is how many
    creations are carried out once more, as MLflow repeats a request whose answer was lost.
    """

    def __init__(self, now: float) -> None:
        self.model: FakeModel | None = None
        self.now = now
        self.before_request: Callable[[str], None] = lambda _: None
        self.answers_lost = 0

    def replace_mlflow(self, patch: pytest.MonkeyPatch) -> None:
        """Let detreg's registry talk to this one."""
        for module in (registered_model, registry):
            patch.setattr(module, "MlflowClient", lambda: self)
        patch.setattr(registered_model, "register_model", self.register_model)

    @property
    def content(self) -> FakeModel:
        assert self.model is not None
        return self.model

    def register_model(self, _uri: str, _name: str, tags: Mapping[str, str]) -> None:
        self.before_request("register_model")
        for _ in range(1 + self.answers_lost):
            self.model = self.model or FakeModel()
            self.model.created += 1
            number = self.model.created
            self.model.versions[number] = FakeVersion(number, int(self.now * 1000), dict(tags))
        self.answers_lost = 0

    def get_registered_model(self, name: str) -> SimpleNamespace:
        self.before_request("get_registered_model")
        if self.model is None:
            raise MlflowException(f"{name} not found", RESOURCE_DOES_NOT_EXIST)
        return SimpleNamespace(aliases=dict(self.model.aliases), tags=dict(self.model.tags))

    def search_model_versions(self, _condition: str, **_: None) -> Page:
        self.before_request("search_model_versions")
        return Page(copy.deepcopy(list(self.content.versions.values())))

    def get_model_version(self, _name: str, version: str) -> FakeVersion:
        self.before_request("get_model_version")
        return copy.deepcopy(self.content.versions[int(version)])

    def set_registered_model_alias(self, _name: str, alias: str, version: str) -> None:
        self.before_request(f"set alias {alias}")
        self.content.aliases[alias] = int(version)

    def delete_registered_model_alias(self, _name: str, alias: str) -> None:
        self.before_request(f"delete alias {alias}")
        self.content.aliases.pop(alias, None)

    def set_registered_model_tag(self, _name: str, key: str, value: str) -> None:
        self.before_request("set_registered_model_tag")
        self.content.tags[key] = value

    def set_model_version_tag(self, _name: str, version: str, key: str, value: str) -> None:
        self.before_request("set_model_version_tag")
        self.content.versions[int(version)].tags[key] = value

    def delete_model_version(self, _name: str, version: str) -> None:
        self.before_request("delete_model_version")
        self.content.versions.pop(int(version), None)
        for alias, named in list(self.content.aliases.items()):
            if named == int(version):
                del self.content.aliases[alias]
