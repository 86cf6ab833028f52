# All settings, read once at the edge: flags, then RUNNEL_* variables, then runnel.toml, then defaults.
from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr, ValidationError, model_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from commands.errors import CommandError
from serving.admission import AdmissionConfig
from serving.cluster import ClusterConfig
from serving.intake import IntakeConfig
from serving.keys import ApiKey, KeysInvalid, parse_keys
from serving.service import ServiceConfig
from serving.steps.history import HistoryConfig
from serving.steps.selectors import SelectConfig
from serving.steps.sources import SourceConfig
from serving.versions import VersionsConfig
from stream.follow_config import FollowRunConfig
from stream.kafka_config import KafkaConfig
from stream.run import FoldRunConfig
from stream.run_learn import LearnRunConfig

PREFIX = "RUNNEL_"
DEFAULT_FILE = Path("runnel.toml")
_SECRET = re.compile("pas|secret|key", re.IGNORECASE)  # what is said of such a setting leaves out its value
_SECTION_FLAGS = {"kafka": ("servers", "deltas"), "fold": ("number", "num_folds")}  # section → flags for its keys
_OTHER_VARIABLES = {"RUNNEL_CONFIG"}  # read elsewhere


@dataclass(frozen=True)
class ServeSection:
    """What the service has beside the settings that it shares with the stages."""

    replicas: int = 1
    keys_file: Path | None = None  # API keys as `runnel keys` prints them, one a line
    keys: str = ""  # the same lines, separated by ";"
    admission: AdmissionConfig = field(default_factory=AdmissionConfig)
    intake: IntakeConfig = field(default_factory=IntakeConfig)
    sources: SourceConfig = field(default_factory=SourceConfig)
    select: SelectConfig = field(default_factory=SelectConfig)
    versions: VersionsConfig = field(default_factory=VersionsConfig)


class Settings(BaseSettings):
    """What a person may set. A section holds the configuration dataclass of the part it names, field by field.

    `RUNNEL_LEARN__COMMIT_SECONDS=1` and `[learn] commit_seconds = 1` say the same. Sections' fields, units and
    defaults stand beside the classes that use them.
    """

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_nested_delimiter="__", extra="forbid", frozen=True)

    home: Path = Path("runnel-home")  # all that survives: event log, stores, pid files
    host: str = "127.0.0.1"  # the API's address
    port: int = Field(8000, ge=1, le=65535)  # the API's port
    api_key: SecretStr = SecretStr("")  # with which runnel's own commands call an API that asks for keys
    data: Path = Path("../shared/data")  # data sets' directory, or one file
    seed: int = Field(0, ge=0)  # of every random generator
    catalogue: Literal["open", "closed"] = "open"  # open: an item is known from its first event, else from its upsert
    kafka: KafkaConfig = KafkaConfig()
    fold: FoldRunConfig = FoldRunConfig()
    learn: LearnRunConfig = LearnRunConfig()
    follow: FollowRunConfig = FollowRunConfig()
    serve: ServeSection = ServeSection()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the base class names it
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags before environment before file; no other source."""
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls, _settings_file())

    @model_validator(mode="after")
    def _folds_share_a_kafka(self) -> Settings:
        if self.fold.num_folds > 1 and not self.kafka.has_delta_topics:
            raise ValueError("fold.num_folds: several folds share a Kafka's partitions, and their deltas' topics")
        return self

    def learn_config(self) -> LearnRunConfig:
        """The learn stage's; records are bounded as the fold stage bounds them, or entries would be late here alone."""
        return replace(self.learn, stage=replace(self.learn.stage, records=self.fold.stage.records))

    def cluster_config(self) -> ClusterConfig:
        """Where the service listens, and how many replicas answer."""
        return ClusterConfig(self.home, self.host, self.port, self.serve.replicas)

    def api_keys(self) -> tuple[ApiKey, ...]:
        """Keys of file and setting; none: the API asks for none. Raises CommandError naming file and line."""
        file = self.serve.keys_file
        try:
            from_file = parse_keys(file.read_text(), str(file)) if file else ()
            return from_file + parse_keys(self.serve.keys, "serve.keys")
        except (OSError, UnicodeDecodeError) as error:
            raise CommandError(f"serve.keys_file = {str(file)!r}: {error}") from None
        except KeysInvalid as error:
            raise CommandError(str(error)) from None

    def service_config(self) -> ServiceConfig:
        """A replica's; events are judged as the fold stage judges them, histories are cut as the learn stage cuts."""
        serve, examples = self.serve, self.learn.stage.examples
        return ServiceConfig(
            self.home,
            stages=("follow",) if self.kafka.has_delta_topics else ("fold", "learn"),
            is_open=self.catalogue == "open",
            seed=self.seed,
            keys=self.api_keys(),
            admission=serve.admission,
            intake=serve.intake,
            kafka=self.kafka,
            events=self.fold.stage.events,
            history=HistoryConfig(examples.max_entries, examples.session_gap_ms),
            sources=serve.sources,
            select=serve.select,
            versions=serve.versions,
        )


def load_settings(**flags: object) -> Settings:
    """Settings from every source; flags that are None were not given.

    Raises CommandError naming key, value and source of the first wrong one.
    """
    given = {name: value for name, value in flags.items() if value is not None}
    for section, names in _SECTION_FLAGS.items():
        if found := {name: given.pop(name) for name in names if name in given}:
            given[section] = found
    unknown = next(_unknown_variables(), None)
    if unknown:
        raise CommandError(f"unknown setting {unknown} (environment); known are {', '.join(_known())}")
    try:
        return Settings(**given)  # type: ignore[arg-type]
    except tomllib.TOMLDecodeError as error:
        raise CommandError(f"{_settings_file()}: not TOML: {error}") from None
    except ValidationError as error:
        raise CommandError(_first_problem(error, given)) from None


def _settings_file() -> Path | None:
    named = os.environ.get("RUNNEL_CONFIG")
    if named and not Path(named).is_file():
        raise CommandError(f"RUNNEL_CONFIG = {named!r}: no such file")
    return Path(named) if named else DEFAULT_FILE if DEFAULT_FILE.is_file() else None


def _known() -> list[str]:
    return [PREFIX + name.upper() for name in Settings.model_fields]


def _unknown_variables() -> Iterator[str]:
    for name in os.environ:
        section = name.upper().split("__", 1)[0]
        if name.upper().startswith(PREFIX) and section not in {*_known(), *_OTHER_VARIABLES}:
            yield name


def _first_problem(error: ValidationError, flags: dict[str, object]) -> str:
    problem = error.errors()[0]
    key = ".".join(str(part) for part in problem["loc"])
    if _SECRET.search(key):
        return f"{key}: {problem['msg']} ({_source(key, flags)})"
    source = _source(key, flags)
    if problem["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        return f"unknown setting {key} = {problem['input']!r} ({source})"
    if not key:  # of sections that do not go together
        return str(problem["ctx"]["error"])
    if problem["type"] == "value_error":  # of a whole section; it names what is wrong in it
        return f"{key}: {problem['ctx']['error']} ({source})"
    return f"{key} = {problem['input']!r} ({source}): {problem['msg']}"


def _source(key: str, flags: dict[str, object]) -> str:
    variable = PREFIX + key.upper().replace(".", "__")
    if key in flags:
        return f"--{key}"
    return variable if variable in os.environ else str(_settings_file() or variable)
