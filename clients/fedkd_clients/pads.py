"""The masks of masked sums: a pad for every two members, which only these two can make.

X25519 gives two members a secret, HKDF-SHA256 makes a key of it that serves one sum, and ChaCha20
makes that key into uniform words. The smaller id adds the pad, the larger subtracts it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from fedkd.privacy.masked_sums import Words

KEY_BYTES = 32


def new_key() -> bytes:
    """Return the private half of a new X25519 pair, drawn from the operating system."""
    return X25519PrivateKey.generate().private_bytes_raw()


def public_half(private: bytes) -> bytes:
    """Return the public half of a pair."""
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def mask(
    private: bytes, members: Mapping[int, bytes], *, client: int, use: bytes, shape: tuple[int, ...]
) -> Words:
    """Return the sum of a client's pads, uniform unless all other members are of one mind.

    Args:
        private: the client's own private half.
        members: public halves by client id; its own is among them.
        client: whose mask it is.
        use: what the mask is for. The same ``use`` gives the same mask: never twice.
        shape: of the answer to be masked.

    Raises:
        ValueError: a public half that is none.
    """
    mine, total = X25519PrivateKey.from_private_bytes(private), np.zeros(shape, dtype=np.uint32)
    for peer in members:
        if peer == client:
            continue
        secret = mine.exchange(X25519PublicKey.from_public_bytes(members[peer]))
        first, second = sorted((client, peer))
        pair = first.to_bytes(8) + second.to_bytes(8) + members[first] + members[second]
        pad = _pad(secret, b"fedkd masked sums 1" + pair + use, shape)
        total = total + pad if client == first else total - pad
    return total


def _pad(secret: bytes, info: bytes, shape: tuple[int, ...]) -> Words:
    """Return uniform words that only holders of ``secret`` can make."""
    key = HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=None, info=info).derive(secret)
    nonce = bytes(16)  # a key serves one stream, so the nonce need not differ
    stream = Cipher(ChaCha20(key, nonce), mode=None).encryptor()
    words = np.frombuffer(stream.update(bytes(4 * math.prod(shape))), dtype="<u4")
    return words.astype(np.uint32).reshape(shape)
