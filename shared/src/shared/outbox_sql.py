"""The SQL statements of the outbox publisher. `shared.outbox_publisher` explains announcements and claims."""

from sqlalchemy import text

NEW_CLAIM = text("SELECT now() + CAST(:lasting AS interval)")

CLAIM_EVENTS = text("""
    UPDATE outbox SET due_at = :claim
    WHERE (tenant_id, id) IN (
        SELECT tenant_id, id FROM outbox WHERE due_at <= now() ORDER BY due_at, id LIMIT :limit FOR UPDATE SKIP LOCKED)
    RETURNING tenant_id, id, topic, key, value, headers
""")

CLAIM_MARKS = text("""
    UPDATE outbox_mark SET due_at = :claim
    WHERE (tenant_id, topic, key, version) IN (
        SELECT tenant_id, topic, key, version FROM outbox_mark WHERE due_at <= now() ORDER BY due_at LIMIT :limit
        FOR UPDATE SKIP LOCKED)
    RETURNING tenant_id, topic, key
""")

COUNT_WAITING = text("""
    SELECT count(*) FROM (SELECT FROM outbox UNION ALL SELECT FROM outbox_mark LIMIT :limit) AS waiting
""")

DELETE_EVENTS = text("""
    DELETE FROM outbox USING unnest(CAST(:tenants AS text[]), CAST(:ids AS bigint[])) AS sent (tenant, id)
    WHERE outbox.tenant_id = sent.tenant AND outbox.id = sent.id
""")

# A new mark is due after 5 s. A mark that is due later than that has been claimed.
ANNOUNCE_AND_CLAIM = text("""
    WITH claim AS (
        SELECT COALESCE(CAST(:claim AS timestamptz), now() + CAST(:lasting AS interval)) AS until
    ), sent AS (
        SELECT * FROM unnest(CAST(:tenants AS text[]), CAST(:topics AS text[]), CAST(:keys AS text[]),
                             CAST(:versions AS bigint[])) AS sent (tenant_id, topic, key, version)
    ), announced AS (
        INSERT INTO published_state AS published (tenant_id, topic, key, version)
        SELECT * FROM sent
        ON CONFLICT (tenant_id, topic, key)
        DO UPDATE SET version = GREATEST(published.version, excluded.version)
    ), claimed AS (
        INSERT INTO outbox_mark AS mark (tenant_id, topic, key, version, due_at)
        SELECT sent.*, claim.until FROM sent CROSS JOIN claim
        ON CONFLICT (tenant_id, topic, key, version)
        DO UPDATE SET due_at = excluded.due_at WHERE mark.due_at <= now() + interval '6 seconds'
    )
    SELECT until FROM claim
""")

RENEW_CLAIMS = text("""
    WITH renewed AS (
        SELECT now() + CAST(:lasting AS interval) AS until
    ), marks AS (
        UPDATE outbox_mark AS mark SET due_at = renewed.until
        FROM renewed, unnest(CAST(:tenants AS text[]), CAST(:topics AS text[]), CAST(:keys AS text[]),
                             CAST(:versions AS bigint[])) AS sent (tenant_id, topic, key, version)
        WHERE mark.tenant_id = sent.tenant_id AND mark.topic = sent.topic AND mark.key = sent.key
          AND mark.due_at = :claim
    )
    SELECT until FROM renewed
""")

# A state is the newest if no higher version has been announced. Only the marks of such states are deleted, and only
# those that no other publisher has claimed.
DELETE_MARKS_OF_NEWEST = text("""
    WITH sent AS (
        SELECT * FROM unnest(CAST(:tenants AS text[]), CAST(:topics AS text[]), CAST(:keys AS text[]),
                             CAST(:versions AS bigint[])) AS sent (tenant_id, topic, key, version)
    ), newest AS (
        SELECT sent.* FROM sent JOIN published_state USING (tenant_id, topic, key)
        WHERE published_state.version <= sent.version
    ), deleted AS (
        DELETE FROM outbox_mark AS mark USING newest
        WHERE mark.tenant_id = newest.tenant_id AND mark.topic = newest.topic AND mark.key = newest.key
          AND mark.version <= newest.version
          AND (mark.due_at = :claim OR mark.due_at <= now() + interval '6 seconds')
    )
    SELECT tenant_id, topic, key FROM newest
""")
