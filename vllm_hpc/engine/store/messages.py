"""What a rank and the store send each other: lines of JSON, after each has proved that it knows the job's secret.

The store sends a number that it uses once; the rank answers with one of its own and the proof, and gets the store's.
Neither proof tells anything of the secret, or can be used for another connection or in the other direction. The store's
address is part of both: nobody can listen somewhere else, and hand on what the two say to each other.
"""

from __future__ import annotations

import hmac
import secrets
from typing import Literal, NamedTuple

import msgspec

Role = Literal["rank", "store"]
Verb = Literal["set", "add", "read", "wait", "append", "compare", "delete", "count"]
REFUSED = b"refused"
# Bytes: the longest line of somebody who has proved nothing.
LONGEST_PROOF = 256


class Address(NamedTuple):
    """Where the store listens."""

    host: str
    port: int


class Numbers(NamedTuple):
    """What distinguishes a connection from all others: the store's number and address, and the rank's number."""

    stores: bytes
    address: Address
    ranks: bytes


class Call(msgspec.Struct, array_like=True, frozen=True):
    """What a rank asks for. ``amount`` is what ``add`` adds, or for how many seconds ``wait`` waits (0: no limit).

    ``values`` has one value a key for ``set`` and ``append``; for ``compare`` what the key must have (b"": nothing)
    and what it gets then. ``count`` counts all keys.
    """

    verb: Verb
    keys: list[str] = []
    values: list[bytes] = []
    amount: int | float = 0


class Answer(msgspec.Struct, array_like=True, frozen=True):
    """The keys' values afterwards, before for ``delete``; None: there is none."""

    values: list[bytes | None]


def nonce() -> bytes:
    """A number that is used once."""
    return secrets.token_hex(32).encode()


def proof(secret: bytes, role: Role, numbers: Numbers) -> bytes:
    """That who sends it knows the secret, now and in this role."""
    said = f"{role} {numbers.address.host} {numbers.address.port} ".encode()
    return hmac.digest(secret, said + numbers.stores + b" " + numbers.ranks, "sha256").hex().encode()


def is_same(one: bytes, other: bytes) -> bool:
    """Compare two proofs, in a time that does not tell where they differ."""
    return hmac.compare_digest(one, other)
