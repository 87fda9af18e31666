"""Ids and secrets that look like Stripe's: a prefix and random letters and digits."""

import secrets
import string

_ALPHABET = (string.ascii_letters + string.digits).encode()
# Each byte becomes a letter or digit. Some are slightly more frequent, which does not matter here.
_LETTER_OF_BYTE = bytes(_ALPHABET[byte % len(_ALPHABET)] for byte in range(256))


def new_id(prefix: str, length: int = 24) -> str:
    """A fresh id such as `pi_3Fq…`; unique by 24 random characters out of 62."""
    return f"{prefix}_{new_secret(length)}"


def new_secret(length: int) -> str:
    return secrets.token_bytes(length).translate(_LETTER_OF_BYTE).decode()
