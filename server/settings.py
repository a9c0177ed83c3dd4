"""Everything an operator can set, from four sources: flags > environment > file > defaults.

The environment name of a setting is `MILLRACE_` + its name in capitals. `MILLRACE_CONFIG` (or
`--config`) names a TOML file with the same keys. Unknown keys in the file are errors.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

MIB = 1 << 20
GIB = 1 << 30


class SettingsInvalid(ValueError):
    """A setting has a value it cannot have; the message names each one."""


def available_cpus() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class Settings(BaseSettings):
    """The server's settings. Every field has a sound default; units are in the names."""

    model_config = SettingsConfigDict(env_prefix="MILLRACE_", extra="forbid", frozen=True)

    config: Path | None = Field(None, description="TOML file with these same keys")

    # Where the models are and how they come and go.
    repository: Path = Field(Path("model_repo"), description="folder of models")
    state_dir: Path | None = Field(
        None, description="where the desired state is kept; default: beside each model"
    )
    cache_dir: Path | None = Field(None, description="where compiled artifacts are kept")
    control: Literal["auto", "explicit"] = Field(
        "auto", description="`auto` loads what the folder holds, `explicit` only what is asked for"
    )
    watch: bool = Field(True, description="react to file events in the repository")
    reconcile_s: float = Field(5.0, gt=0, description="how often the folder is read again")
    settle_s: float = Field(
        2.0, ge=0, description="how long files without a manifest must stay unchanged"
    )
    load_timeout_s: float = Field(120.0, gt=0, description="longest load of one version")
    isolate: bool = Field(True, description="compile models in a child process")

    # The machine.
    device: str = Field("cpu", description="where models run: `cpu` or `reference`")
    worker_threads: int = Field(
        default_factory=available_cpus, ge=1, le=1024, description="threads that decode and run"
    )
    engine_threads: int | None = Field(
        None, ge=1, le=1024, description="threads of one run; default: half the cores"
    )

    # The network.
    host: str = Field("127.0.0.1", description="address to listen on; `0.0.0.0` for all")
    port: int = Field(8000, ge=0, le=65_535, description="port to listen on; 0 picks a free one")
    admin_token: SecretStr | None = Field(
        None, description="bearer token of state-changing routes; unset: loopback only"
    )
    cors_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="origins that browsers may call from, comma-separated, or `*`"
    )
    backlog: int = Field(2048, ge=1, description="connections waiting to be accepted")
    keep_alive_s: float = Field(30.0, gt=0, description="how long an idle connection stays open")

    # Limits on one request.
    max_body_bytes: int = Field(64 * MIB, ge=1, description="largest body, also once unpacked")
    max_upload_bytes: int = Field(8 * GIB, ge=1, description="largest upload of a version")
    max_image_pixels: int = Field(50_000_000, ge=1, description="largest picture, decoded")
    max_inline_json_bytes: int = Field(
        64 * 1024, ge=0, description="larger JSON is parsed off the event loop"
    )
    max_items: int = Field(1024, ge=1, description="most inputs in one request")
    max_inflight_body_bytes: int = Field(
        1 * GIB, ge=1, description="bodies held in memory at one time, all requests together"
    )
    request_timeout_s: float = Field(60.0, gt=0, description="default deadline of a request")
    body_timeout_s: float = Field(
        30.0, gt=0, description="longest silence while a body is arriving"
    )
    shutdown_delay_s: float = Field(
        0.0, ge=0, description="how long a server that is to stop still listens, not ready"
    )
    drain_timeout_s: float = Field(
        30.0, ge=0, description="how long shutdown waits for requests in flight"
    )

    # Collections of pictures and vectors.
    collections: str = Field(
        "collections",
        description="where collections are kept: a folder, made when the first one is, or a "
        "`postgresql://` URL",
    )
    collections_open: Literal["admin", "anyone"] = Field(
        "admin", description="who may add, change and delete items of collections"
    )
    max_k: int = Field(10_000, ge=1, description="most answers of one search, `offset` included")
    max_answer_bytes: int = Field(
        64 * MIB, ge=1, description="most bytes that an answer tells of a collection's items"
    )
    max_bulk_items: int = Field(
        1_000_000, ge=1, description="most items of one request that adds to a collection"
    )
    recall_probe_share: float = Field(
        0.01, ge=0, le=1, description="share of searches that are compared with exact ones"
    )

    # The log.
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="least severe line that is written"
    )
    log_format: Literal["text", "json"] = Field("text", description="form of a log line")
    access_log: bool = Field(False, description="one line per request")

    @field_validator("cors_origins", mode="before")
    @classmethod
    def _split_origins(cls, value: Any) -> Any:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @field_validator("admin_token", mode="after")
    @classmethod
    def _no_empty_token(cls, value: SecretStr | None) -> SecretStr | None:
        # An empty variable is how compose files and charts say "not set"; as a token it would
        # let everyone in.
        return value if value is not None and value.get_secret_value() else None

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Order the sources: flags, then environment, then the file."""
        named = init_settings().get("config") or os.environ.get("MILLRACE_CONFIG")
        if not named:
            return init_settings, env_settings
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls, Path(named))


def load_settings(**flags: Any) -> Settings:
    """Build the settings; a flag that is None was not given.

    Raises:
        SettingsInvalid: a value is wrong, a key in the file is unknown, or the file is missing.
    """
    given = {name: value for name, value in flags.items() if value is not None}
    path = given.get("config") or os.environ.get("MILLRACE_CONFIG")
    if path and not Path(path).is_file():
        raise SettingsInvalid(f"the settings file {path} does not exist; check MILLRACE_CONFIG")
    try:
        return Settings(**given)
    except ValidationError as error:
        raise SettingsInvalid(_explain(error)) from error
    except ValueError as error:  # not TOML
        raise SettingsInvalid(f"the settings file {path} is not valid TOML: {error}") from error


def likely_slips(environment: Iterable[str]) -> list[tuple[str, str]]:
    """Return variables that are no settings but look much like one, each with the one they look
    like. Others that begin alike belong to Compose, Kubernetes or tools.
    """
    known = {f"MILLRACE_{name.upper()}" for name in Settings.model_fields}
    unknown = sorted({name for name in environment if name.startswith("MILLRACE_")} - known)
    meant = ((name, get_close_matches(name, known, n=1, cutoff=0.88)) for name in unknown)
    return [(name, found[0]) for name, found in meant if found]


def _explain(error: ValidationError) -> str:
    lines = []
    for fault in error.errors():
        name = ".".join(str(part) for part in fault["loc"])
        if fault["type"] == "extra_forbidden":
            lines.append(f"{name}: unknown setting; known: {', '.join(Settings.model_fields)}")
        else:
            got = "(hidden)" if name == "admin_token" else repr(fault["input"])
            lines.append(f"{name} (MILLRACE_{name.upper()}): {fault['msg']}, got {got}")
            if name == "port" and str(fault["input"]).startswith("tcp://"):
                lines[-1] += (
                    ", which Kubernetes sets for a service named millrace: set enableServiceLinks: "
                    "false in the pod's spec, or set MILLRACE_PORT there"
                )
    return "; ".join(lines)
