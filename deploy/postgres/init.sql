-- One database per service, with three roles each. Run by psql as a superuser; may be repeated, and then sets the
-- passwords again. The official postgres image runs it from /docker-entrypoint-initdb.d.
--
--   <service>_owner   migrates: owns the database and what is in it
--   <service>_api     serves requests, under row-level security of one tenant
--   <service>_worker  serves events, under policies of its own
--
-- What the last two may do inside a database is granted by that service's migrations.
\set ON_ERROR_STOP on

-- A variable that is missing must stop us here, not make a role without a password.
\getenv ledger_owner LEDGER_OWNER_PASSWORD
\getenv ledger_api LEDGER_API_PASSWORD
\getenv ledger_worker LEDGER_WORKER_PASSWORD
\getenv payments_owner PAYMENTS_OWNER_PASSWORD
\getenv payments_api PAYMENTS_API_PASSWORD
\getenv payments_worker PAYMENTS_WORKER_PASSWORD
\getenv recharge_owner RECHARGE_OWNER_PASSWORD
\getenv recharge_api RECHARGE_API_PASSWORD
\getenv recharge_worker RECHARGE_WORKER_PASSWORD

CREATE TEMPORARY TABLE wanted_role (name text PRIMARY KEY, password text NOT NULL CHECK (password <> ''));
INSERT INTO wanted_role VALUES
    ('ledger_owner', :'ledger_owner'),
    ('ledger_api', :'ledger_api'),
    ('ledger_worker', :'ledger_worker'),
    ('payments_owner', :'payments_owner'),
    ('payments_api', :'payments_api'),
    ('payments_worker', :'payments_worker'),
    ('recharge_owner', :'recharge_owner'),
    ('recharge_api', :'recharge_api'),
    ('recharge_worker', :'recharge_worker');

SELECT format('CREATE ROLE %I', name) FROM wanted_role
WHERE name NOT IN (SELECT rolname FROM pg_roles) \gexec
SELECT format('ALTER ROLE %I LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOBYPASSRLS PASSWORD %L', name, password)
FROM wanted_role \gexec

SELECT format('CREATE DATABASE %I OWNER %I', service, service || '_owner')
FROM unnest(ARRAY['ledger', 'payments', 'recharge']) AS service
WHERE service NOT IN (SELECT datname FROM pg_database) \gexec
SELECT format('REVOKE ALL ON DATABASE %I FROM PUBLIC', service),
       format('GRANT CONNECT ON DATABASE %I TO %I, %I', service, service || '_api', service || '_worker')
FROM unnest(ARRAY['ledger', 'payments', 'recharge']) AS service \gexec
