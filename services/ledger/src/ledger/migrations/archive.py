"""The archive's functions: transfers whose references are kept no longer move to a partition of their month.

They run with the owner's rights, which are nothing but these: to see and delete transfers that are older than 400 days,
and to write such into the archive. So nobody, not even by mistake, moves a transfer whose reference still counts.
"""

_OLD = "created_at < now() - interval '400 days'"

# A partition is made on its own and then attached: that waits for nobody who reads or writes the archive. Direct access
# to it passes by the policies of its parent, so it has its own.
_MAKE_PARTITION = """
    CREATE FUNCTION make_archive_partition(month timestamptz) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public AS $$
    DECLARE
        name text := 'transfer_archive_' || to_char(month AT TIME ZONE 'UTC', 'YYYY_MM');
        following timestamptz := (month AT TIME ZONE 'UTC' + interval '1 month') AT TIME ZONE 'UTC';
    BEGIN
        PERFORM pg_advisory_xact_lock(hashtextextended('transfer_archive', 0));
        IF to_regclass('public.' || name) IS NOT NULL THEN
            RETURN;
        END IF;
        EXECUTE format(
            'CREATE TABLE public.%1$I (LIKE public.transfer_archive INCLUDING CONSTRAINTS,
                 CHECK (created_at >= %2$L AND created_at < %3$L))', name, month, following);
        EXECUTE format('ALTER TABLE public.%I ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY', name);
        EXECUTE format('GRANT SELECT ON public.%I TO ledger_worker', name);
        EXECUTE format('CREATE POLICY %1$I ON public.%2$I TO ledger_worker USING (true)', name || '_worker', name);
        EXECUTE format(
            'ALTER TABLE public.transfer_archive ATTACH PARTITION public.%I FOR VALUES FROM (%L) TO (%L)',
            name, month, following);
    END
    $$
"""

_ARCHIVE_TRANSFERS = """
    CREATE FUNCTION archive_transfers(tenants text[], before timestamptz, rows_max integer) RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public AS $$
    DECLARE
        found tid[] := ARRAY(
            SELECT ctid FROM transfer WHERE tenant_id = ANY (tenants) AND created_at < before AND version > 0
            ORDER BY tenant_id, created_at, version LIMIT rows_max);
        month timestamptz;
        moved integer;
    BEGIN
        FOR month IN SELECT DISTINCT date_trunc('month', created_at, 'UTC') FROM transfer WHERE ctid = ANY (found) LOOP
            PERFORM make_archive_partition(month);
        END LOOP;
        WITH taken AS (DELETE FROM transfer WHERE ctid = ANY (found) RETURNING *)
        INSERT INTO transfer_archive SELECT * FROM taken;
        GET DIAGNOSTICS moved = ROW_COUNT;
        RETURN moved;
    END
    $$
"""

ARCHIVE = (
    f"CREATE POLICY transfer_archiver ON transfer TO ledger_owner USING ({_OLD}) WITH CHECK (false)",
    f"CREATE POLICY transfer_archive_archiver ON transfer_archive FOR INSERT TO ledger_owner WITH CHECK ({_OLD})",
    _MAKE_PARTITION,
    _ARCHIVE_TRANSFERS,
    "REVOKE ALL ON FUNCTION make_archive_partition(timestamptz) FROM PUBLIC",
    "REVOKE ALL ON FUNCTION archive_transfers(text[], timestamptz, integer) FROM PUBLIC",
    "GRANT EXECUTE ON FUNCTION archive_transfers(text[], timestamptz, integer) TO ledger_worker",
)
