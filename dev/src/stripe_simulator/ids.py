"""Ids and secrets that look like Stripe's: a prefix and random letters and digits."""

import secrets
import string

_ALPHABET = string.ascii_letters + string.digits


def new_id(prefix: str, length: int = 24) -> str:
    """A fresh id such as `pi_3Fq…`; unique by 24 random characters out of 62."""
    return f"{prefix}_{new_secret(length)}"


def new_secret(length: int) -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(length))
