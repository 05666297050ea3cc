"""Where the configuration comes from, and what of it a gateway that runs cannot take."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from gateway.config import ConfigError, Settings
from gateway.config_file import load
from gateway.traces.tracer import check_extra

_PARENTS = ("server.host", "server.port", "store.state", "store.cache", "store.book")
"""What the parent process has opened, and keeps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A file, or none, and the `[server]` keys of the command line, which win over it."""

    config: Path | None
    overrides: Mapping[str, str | int]

    def read(self) -> Settings:
        """Return the settings. Raises ConfigError, also for what they need and is not there."""
        settings = load(self.config, overrides=self.overrides)
        check_extra(settings.traces)
        for upstream in settings.upstreams:
            upstream.api_key()  # a missing one stops the start, not the first request
        if settings.hub.enabled:
            settings.hub.api_key()
        return settings

    def keep(self, settings: Settings, path: Path) -> Path | None:
        """Copy the file that `settings` were read from to `path`; return it, None without a file.

        A worker that starts later reads what its generation has, not what the operator has begun
        to write. Raises ConfigError if the file is not the same any more, and OSError.
        """
        if self.config is None:
            return None
        path.write_bytes(self.config.read_bytes())
        with suppress(ConfigError):
            if load(path, overrides=self.overrides) == settings:
                return path
        path.unlink()
        raise ConfigError(f"{self.config}: changed while it was read")


def check_reload(old: Settings, new: Settings) -> None:
    """Raise ConfigError if a gateway that runs with `old` cannot go on with `new`."""
    if problems := list(_fixed(old, new)):
        raise ConfigError(*problems)


def summary(old: Settings, new: Settings) -> str:
    """Return what has become of the models, for the operator."""
    before = {model.id: model for model in old.models}
    after = {model.id: model for model in new.models}
    changed = sum(before[name] != after[name] for name in before.keys() & after.keys())
    added, removed = len(after.keys() - before.keys()), len(before.keys() - after.keys())
    return f"models: {added} added, {removed} removed, {changed} changed"


def _fixed(old: Settings, new: Settings) -> Iterator[str]:
    for key in _PARENTS:
        section, name = key.split(".")
        if getattr(getattr(old, section), name) != getattr(getattr(new, section), name):
            yield f"{key}: cannot change while the gateway runs: a restart is needed"
    if old.is_embedded != new.is_embedded:
        yield (
            "upstreams: the local models cannot come or go while the gateway runs: "
            "a restart is needed"
        )
