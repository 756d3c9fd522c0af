"""Smuggled files: a program where tensors are expected. Nothing of a claim is ever unpickled, or unpacked."""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path

import pytest
import torch

from polchain.core.claim import Claim, write_listing
from polchain.errors import FormatError, ManifestError, MissingFileError
from polchain.verifier.integrity import check_integrity
from polchain.verifier.policy import Policy
from tests.claims import Recorded, copy_of


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.mark,)


def bombs(mark: Path) -> dict[str, bytes]:
    packed, stream = io.BytesIO(), io.BytesIO()
    torch.save({"weights": Bomb(mark)}, packed)
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("../../outside", bytes(1 << 20))
    return {"pickle": pickle.dumps(Bomb(mark)), "torch.save": packed.getvalue(), "zip": stream.getvalue()}


@pytest.mark.parametrize("kind", ["pickle", "torch.save", "zip"])
@pytest.mark.parametrize("place", ["checkpoints", "manifests", "entries.jsonl", "heads/last.note"])
def test_a_bomb_in_any_place_of_a_claim_does_not_go_off(
    sgd_victim: Recorded, tmp_path: Path, kind: str, place: str
) -> None:
    mark = tmp_path / "it-ran"
    claim = copy_of(sgd_victim.claim, tmp_path / "claim")
    target = claim / place
    if target.is_dir():
        target = sorted(target.iterdir())[0]
    target.write_bytes(bombs(mark)[kind])
    write_listing(claim)
    with pytest.raises((FormatError, ManifestError)):
        check_integrity(Claim.read(claim), Policy())
    assert not mark.exists()
    assert not (tmp_path / "outside").exists()


def test_a_zip_is_not_taken_for_a_claim(tmp_path: Path) -> None:
    path = tmp_path / "claim.zip"
    path.write_bytes(bombs(tmp_path / "it-ran")["zip"])
    with pytest.raises((FormatError, MissingFileError)):
        Claim.read(path)
