"""Every refusal of a workflow is answered with a problem."""

import pytest

from payments.api.errors import problem_of
from payments.workflows.refusals import RechargeUnderWay, Refusal, TooManyCards, TooManyOpenPurchases

WITH_VALUES = (RechargeUnderWay(may_insist=True), TooManyCards(20), TooManyOpenPurchases(50))
WITHOUT_VALUES = [kind() for kind in Refusal.__subclasses__() if kind not in {type(each) for each in WITH_VALUES}]


@pytest.mark.parametrize("refusal", [*WITH_VALUES, *WITHOUT_VALUES], ids=lambda refusal: type(refusal).__name__)
def test_a_refusal_is_answered_with_a_problem(refusal: Refusal) -> None:
    problem = problem_of(refusal)
    assert problem.status in (404, 409, 429)
    assert problem.detail.endswith(".")
