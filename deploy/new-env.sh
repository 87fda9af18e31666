#!/usr/bin/env bash
# Writes .env from .env.example with a random value for every password and key of our own. What only you know stays empty.
set -euo pipefail
cd "$(dirname "$0")/.."

[ ! -e .env ] || { echo ".env exists already: nothing has been changed." >&2; exit 1; }
random() { od -An -N32 -tx1 /dev/urandom | tr -d ' \n'; }

umask 077
unfinished=$(mktemp ./.env.XXXXXX)
trap 'rm -f "$unfinished"' EXIT
while IFS= read -r line; do
    case $line in
        *_PASSWORD= | METADATA_SIGNING_KEYS=) printf '%s%s\n' "$line" "$(random)" ;;
        *) printf '%s\n' "$line" ;;
    esac
done < .env.example > "$unfinished"
mv -n "$unfinished" .env

echo "Wrote .env, readable by you alone. Fill in:"
echo "  STRIPE_SECRET_KEY, STRIPE_PUBLISHABLE_KEY, STRIPE_WEBHOOK_SECRET   your Stripe account's"
echo "  AUTH_JWKS_URL                                                      your token issuer's keys"
echo "Keep a copy of it where you keep secrets: METADATA_SIGNING_KEYS proves what was paid for."
