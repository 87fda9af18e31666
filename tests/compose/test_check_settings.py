"""What compose checks before it starts anything: development values only with the simulator, and no half-set keys."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "deploy" / "image" / "check_settings.py"
LOCAL_SIMULATOR = "http://127.0.0.1:12111"
DEVELOPMENT = {
    "STRIPE_SECRET_KEY": "sk_test_simulator",
    "STRIPE_PUBLISHABLE_KEY": "pk_test_simulator",
    "STRIPE_WEBHOOK_SECRET": "whsec_simulator_0123456789",
    "STRIPE_API_BASE": LOCAL_SIMULATOR,
    "METADATA_SIGNING_KEYS": "development-only-metadata-key-0123456789",
    "AUTH_JWT_SECRET": "development-only-jwt-secret-0123456789",
    "POSTGRES_PASSWORD": "development-only",
    **{
        f"{service}_{role}_PASSWORD": f"development-only-{service}-{role}".lower()
        for service in ("LEDGER", "PAYMENTS", "RECHARGE")
        for role in ("OWNER", "API", "WORKER")
    },
}
OWN = {
    **dict.fromkeys(DEVELOPMENT, "8a1f0c" * 8),
    "STRIPE_SECRET_KEY": "sk_live_51Nabc",
    "STRIPE_PUBLISHABLE_KEY": "pk_live_51Nabc",
    "STRIPE_WEBHOOK_SECRET": "whsec_51Nabc",
    "STRIPE_API_BASE": "",
    "STRIPE_LIVEMODE": "true",
    "AUTH_JWT_SECRET": "",
    "AUTH_JWKS_URL": "https://issuer.example/jwks.json",
}


def check(settings: dict[str, str]) -> tuple[int, str]:
    """The exit code and everything that was printed."""
    done = subprocess.run(
        [sys.executable, "-I", str(SCRIPT)],
        env={"PATH": os.environ["PATH"], **settings},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def test_development_values_are_accepted_with_the_simulator() -> None:
    code, said = check(DEVELOPMENT)
    assert code == 0, said
    assert "development only" in said


def test_own_values_are_accepted_with_stripe_itself() -> None:
    code, said = check(OWN)
    assert code == 0, said


@pytest.mark.parametrize("name", sorted(set(DEVELOPMENT) - {"STRIPE_API_BASE", "AUTH_JWT_SECRET"}))
def test_each_development_value_is_refused_with_stripe_itself(name: str) -> None:
    code, said = check({**OWN, name: DEVELOPMENT[name]})
    assert code == 1
    assert f"{name} has a development value" in said


def test_the_development_token_secret_is_refused_with_stripe_itself() -> None:
    code, said = check({**OWN, "AUTH_JWKS_URL": "", "AUTH_JWT_SECRET": DEVELOPMENT["AUTH_JWT_SECRET"]})
    assert code == 1
    assert "AUTH_JWT_SECRET has a development value" in said


def test_all_empty_settings_are_named_at_once() -> None:
    code, said = check({})
    assert code == 1
    for name in set(DEVELOPMENT) - {"STRIPE_API_BASE"}:
        assert name in said


def test_two_ways_to_verify_tokens_are_refused() -> None:
    code, said = check({**OWN, "AUTH_JWT_SECRET": "b" * 32})
    assert code == 1
    assert "either AUTH_JWKS_URL" in said


def test_a_real_key_is_never_sent_to_a_simulator() -> None:
    code, said = check({**DEVELOPMENT, "STRIPE_SECRET_KEY": "sk_test_51Nabc"})
    assert code == 1
    assert "STRIPE_API_BASE=" in said


def test_a_missing_simulator_is_reported_with_the_option_that_starts_it() -> None:
    code, said = check({**DEVELOPMENT, "STRIPE_API_BASE": "http://simulator.invalid:12111"})
    assert code == 1
    assert "--profile simulator" in said


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"STRIPE_LIVEMODE": "false"}, "STRIPE_LIVEMODE=true"),
        ({"STRIPE_SECRET_KEY": "sk_test_51Nabc"}, "STRIPE_LIVEMODE=false"),
        ({"STRIPE_PUBLISHABLE_KEY": "pk_test_51Nabc"}, "not of the same mode"),
        ({"LEDGER_API_PASSWORD": "p@ss/word"}, "LEDGER_API_PASSWORD may have only"),
        ({"METADATA_SIGNING_KEYS": "long-enough-0123456789-0123456789,short"}, "fewer than 32"),
    ],
)
def test_an_inconsistent_setting_is_refused(wrong: dict[str, str], says: str) -> None:
    code, said = check({**OWN, **wrong})
    assert code == 1
    assert says in said


def test_no_secret_is_printed() -> None:
    _, said = check(
        {**OWN, "STRIPE_LIVEMODE": "false", "LEDGER_API_PASSWORD": "p@ss/word", "METADATA_SIGNING_KEYS": "tiny-key"}
    )
    for secret in ("sk_live_51Nabc", "whsec_51Nabc", "p@ss/word", "tiny-key", OWN["POSTGRES_PASSWORD"]):
        assert secret not in said


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("STRIPE_WEBHOOK_SECRET", "sk_live_51Nabc", "STRIPE_WEBHOOK_SECRET is not the secret of a webhook endpoint"),
        ("STRIPE_WEBHOOK_SECRET", "whsec_51N abc", "STRIPE_WEBHOOK_SECRET has a blank"),
        ("STRIPE_SECRET_KEY", "pk_live_51Nabc", "STRIPE_SECRET_KEY is not a secret key"),
        ("STRIPE_SECRET_KEY", "sk_live_51Nabc ", "STRIPE_SECRET_KEY has a blank"),
        ("STRIPE_PUBLISHABLE_KEY", "sk_live_51Nabc", "STRIPE_PUBLISHABLE_KEY is not a publishable key"),
        ("METADATA_SIGNING_KEYS", "8a1f0c 8a1f0c" * 4, "METADATA_SIGNING_KEYS has a blank"),
    ],
)
def test_a_misplaced_secret_or_one_with_a_blank_is_refused(name: str, value: str, said: str) -> None:
    code, printed = check({**OWN, name: value})
    assert code == 1
    assert said in printed
    assert value.strip() not in printed
