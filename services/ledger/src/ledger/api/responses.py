"""Responses that are not checked once more."""

from collections.abc import Mapping
from typing import Any

from fastapi import Response
from pydantic_core import to_json


def json_response(body: Mapping[str, Any]) -> Response:
    """A body as JSON, without pydantic: its values were just validated or read, and to validate them again would cost
    more than the debit itself."""
    return Response(to_json(body), media_type="application/json")
