"""An opening: the answer to one challenge, a canonical zip (`archive`).

    challenge.json                  the challenge that it answers, as it was asked (`question`)
    manifests/<state>.json          the rows of the disclosed states
    checkpoints/<state>.safetensors their tensors
    samples.bin                     the disclosed samples (`samples`)
    salts.bin                       their salts, 32 bytes each, where the data is private (`salts`)
    proof.bin                       that they are the committed dataset's: 32-byte hashes (`multiproof`)
    opening.json                    {"format": "polchain-opening/v1", "challenge": <digest of challenge.json>}

Nothing in it is signed, and nothing has to be: the log commits to every state, the genesis to every sample.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from polchain.core.archive import is_archive, read_archive, write_archive
from polchain.core.claim import CHECKPOINTS, MANIFESTS, checkpoint_name, manifest_name
from polchain.core.digest import Digest, blake3
from polchain.core.encoding import Fields, decode, encode
from polchain.core.manifest import MANIFEST_LIMIT, Manifest
from polchain.core.place import Place
from polchain.core.question import QUESTION_LIMIT, Question
from polchain.core.salts import SALT
from polchain.errors import ChallengeError, FormatError, MissingFileError

__all__ = ["Opening", "write_opening"]

FORMAT = "polchain-opening/v1"
HEADER, CHALLENGE = "opening.json", "challenge.json"
SAMPLES, SALTS, PROOF = "samples.bin", "salts.bin", "proof.bin"
HEADER_LIMIT = 4096
PROOF_LIMIT = 2 * 1024**3
HASH = 32


@dataclass(frozen=True, slots=True)
class Opening:
    """An opening as it was read. That it is true is `verifier.sealed`'s to say.

    Attributes:
        path: the file.
        challenge: the bytes of the challenge that it answers.
        question: the same, parsed.
        places: where its manifests and tensors lie, by the names that they have in a claim.
        samples: where the samples lie; None where it has none.
        proof: the hashes that prove them.
        salts: theirs, by rising index; None where it has none.
    """

    path: Path
    challenge: bytes
    question: Question
    places: Mapping[str, Place]
    samples: Place | None
    proof: tuple[bytes, ...]
    salts: tuple[bytes, ...] | None = None

    @classmethod
    def read(cls, path: Path) -> Opening:
        """Read an opening. Of tensors and samples nothing is read.

        Raises:
            MissingFileError: no such file, or a part is missing.
            FormatError: not an opening, or over a limit.
            ChallengeError: it holds another challenge than it says that it answers.
        """
        if not is_archive(path):
            raise MissingFileError(
                f"no opening at {path}", hint="an opening is the file that `polchain respond` writes"
            )
        places = {one.name: Place(path, one) for one in read_archive(path)}
        for name in (HEADER, CHALLENGE):
            if name not in places:
                raise MissingFileError(f"{path.name} has no {name}: it is no opening")
        header = Fields(decode(places.pop(HEADER).read(HEADER, HEADER_LIMIT), limit=HEADER_LIMIT, what=HEADER), HEADER)
        if header.str("format") != FORMAT:
            raise FormatError(f"{HEADER}: the format is not {FORMAT}")
        answered = Digest.parse(header.str("challenge"))
        header.done()
        challenge = places.pop(CHALLENGE).read(CHALLENGE, QUESTION_LIMIT)
        if blake3(challenge) != answered:
            raise ChallengeError(f"{path.name} says that it answers {answered}, and holds another challenge")
        samples, proof, salts = places.pop(SAMPLES, None), places.pop(PROOF, None), places.pop(SALTS, None)
        hashes = proof.read(PROOF, PROOF_LIMIT) if proof is not None else b""
        if (samples is None) != (proof is None) or len(hashes) % HASH:
            raise FormatError(f"{path.name}: samples come with a proof, and a proof is hashes of {HASH} bytes")
        salted = salts.read(SALTS, PROOF_LIMIT) if salts is not None else b""
        if (salts is not None and samples is None) or len(salted) % SALT:
            raise FormatError(f"{path.name}: salts come with samples, {SALT} bytes for each")
        for name, place in places.items():
            assert place.member is not None
            if MANIFESTS.fullmatch(name) and place.member.size > MANIFEST_LIMIT:
                raise FormatError(f"{path.name}: {name} is over the limit of {MANIFEST_LIMIT} bytes")
            if not MANIFESTS.fullmatch(name) and not CHECKPOINTS.fullmatch(name):
                raise FormatError(f"{path.name}: {name!a} is no file of an opening")
        return cls(
            path=path,
            challenge=challenge,
            question=Question.decode(challenge),
            places=MappingProxyType(places),
            samples=samples,
            proof=tuple(hashes[at : at + HASH] for at in range(0, len(hashes), HASH)),
            salts=tuple(salted[at : at + SALT] for at in range(0, len(salted), SALT)) if salts is not None else None,
        )


def write_opening(
    out: Path,
    challenge: bytes,
    states: Mapping[Digest, tuple[Manifest, Path]],
    samples: Sequence[bytes | memoryview] | None,
    proof: Sequence[bytes],
    salts: Sequence[bytes] | None = None,
) -> int:
    """Write an opening; durable when this returns. Returns its length in bytes.

    Args:
        out: where to; nothing may be there.
        challenge: the challenge, as it was asked.
        states: by state digest, the rows and the file with the tensors.
        samples: the packed samples, in pieces; None for none.
        proof: the hashes that prove them.
        salts: of private data, the salt of each sample by rising index; None for none.

    Raises:
        StorageError: the disk refused.
    """
    header = encode({"format": FORMAT, "challenge": str(blake3(challenge))})
    files: list[tuple[str, Path | Sequence[bytes | memoryview]]] = [(HEADER, [header]), (CHALLENGE, [challenge])]
    for state, (manifest, tensors) in states.items():
        files += [(manifest_name(state), [manifest.encode()]), (checkpoint_name(state), tensors)]
    if samples is not None:
        files += [(SAMPLES, samples), (PROOF, [b"".join(proof)])]
    if salts is not None:
        files.append((SALTS, [b"".join(salts)]))
    write_archive(out, files)
    return out.stat().st_size
