"""Hooks for Schemathesis: which findings are no faults, and values that it cannot guess. `test_openapi.py` loads
them."""

from typing import Any

import schemathesis

#: Refusals of input that fits: a cursor is ours alone to make, who asks decides what has to be named, and where a
#: balance ends depends on what it has.
BEYOND_SCHEMAS = frozenset(["invalid_cursor", "tenant_missing", "balance_out_of_range"])

#: A reference may hold slashes: who asks with GET for `/holds/x/capture` asks for the hold `x/capture`.
OF_METHODS = frozenset(["ST204", "ST205"])


@schemathesis.hook
def filter_failure(_context: Any, failure: Any, case: Any, response: Any) -> bool:
    """Whether the failure is a fault."""
    if failure.code in OF_METHODS and case.path.endswith(("/capture", "/release")):
        return False
    if failure.code != "ST202" or response.status_code != 422:  # ST202: input that fits was refused
        return True
    problem = response.json()
    if problem["code"] in BEYOND_SCHEMAS:
        return False
    # JSON Schema takes 12.0 for an integer, and a time of any year. Credits are counted, so only 12 is.
    return not all(
        "write a time between" in error["message"]
        or (error["message"] == "Input should be a valid integer" and _has_whole_float(case.body))
        for error in problem["errors"]
    )


@schemathesis.hook
def map_body(context: Any, body: Any) -> Any:
    """Adds a tenant if the body names none: calls of a product would nearly always be rejected without."""
    if context.operation.path.startswith(("/api/ledger/debits", "/api/ledger/holds")) and isinstance(body, dict):
        for each in body["debits"] if isinstance(body.get("debits"), list) else [body]:
            if (isinstance(each, dict) and "reference" in each) or "/holds/" in context.operation.path:
                each.setdefault("tenantId", "acme")
    return body


def _has_whole_float(value: Any) -> bool:
    if isinstance(value, dict):
        return any(_has_whole_float(each) for each in value.values())
    if isinstance(value, list):
        return any(_has_whole_float(each) for each in value)
    return isinstance(value, float) and value.is_integer()
