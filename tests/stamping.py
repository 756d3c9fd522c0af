"""A time-stamping authority on loopback, for whoever has a run stamped."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from polchain.anchors.der import INTEGER, OCTETS, SEQUENCE, Reader, read_integer
from polchain.core.digest import Digest
from tests.anchors.authority import Root, granted, replying, serve


@dataclass(frozen=True)
class Stamping:
    url: str
    pin: Digest


@contextmanager
def stamping() -> Iterator[Stamping]:
    """Grant whatever is asked for."""
    signer = Root("root").issue("tsa")

    def grant(request: bytes) -> bytes:
        query = Reader(request, "request").inside(SEQUENCE)
        query.content(INTEGER)  # the version
        imprint = query.inside(SEQUENCE)
        imprint.whole(SEQUENCE)  # the algorithm
        return granted(signer.token(imprint.content(OCTETS), read_integer(query.content(INTEGER), "request")))

    with serve(replying(grant)) as url:
        yield Stamping(url, signer.pin)
