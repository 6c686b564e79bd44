-- Makes the database `city` and its two users. PostgreSQL's superuser runs it with psql (15 or newer, for \getenv), any number of times:
--   CITYGATE_PASSWORD=… GRAFANA_PASSWORD=… psql -f roles.sql
-- `citygate` owns the database; the store logs in as it, on the same machine also without a password, as the user of that name.
-- `grafana` reads what is in the schema `city`, and can change nothing. A password that is not given stays as it is.

\set ON_ERROR_STOP on
\set citygate_password ''
\set grafana_password ''
\getenv citygate_password CITYGATE_PASSWORD
\getenv grafana_password GRAFANA_PASSWORD

select 'create role ' || name || ' login'
from unnest(array['citygate', 'grafana']) name where not exists (select from pg_roles where rolname = name) \gexec
select format('alter role %I password %L', name, password)
from (values ('citygate', :'citygate_password'), ('grafana', :'grafana_password')) role (name, password) where password <> '' \gexec

-- A query that runs away, or many at once, must not keep readings from being stored.
alter role grafana connection limit 20;
alter role grafana set statement_timeout = '60s';
alter role grafana set default_transaction_read_only = on;

select 'create database city owner citygate' where not exists (select from pg_database where datname = 'city') \gexec
revoke all on database city from public;
grant all on database city to citygate;
grant connect on database city to grafana;

-- Names without a schema are PostgreSQL's own, or of temporary tables: nobody who may create things elsewhere is called in their place.
alter role citygate in database city set search_path = pg_catalog, pg_temp;
alter role grafana in database city set search_path = pg_catalog, pg_temp;

\connect city
-- Everybody may write there in a cluster of PostgreSQL 14, and in one upgraded from it.
select 'revoke create on schema public from public' where to_regnamespace('public') is not null \gexec
create schema if not exists city authorization citygate;
grant all on schema city to citygate;
grant usage on schema city to grafana;
grant select on all tables in schema city to grafana;
-- Locks by number are the store's, and large objects would be writing: both are everybody's by default.
select format('revoke execute on function %s from public', oid::regprocedure), format('grant execute on function %s to citygate', oid::regprocedure)
from pg_proc where pronamespace = 'pg_catalog'::regnamespace and (proname like '%advisory%lock%' or proname like 'lo\_%' or proname in ('lowrite', 'loread')) \gexec
alter default privileges for role citygate in schema city grant select on tables to grafana;
