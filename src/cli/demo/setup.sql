-- Makes the database, roles and rights of the demo on a server that may have them already.
-- Variables: database, password_role, password, auth_user, auth_password, token_role, token_password (may be empty).
set client_min_messages = warning;

select format('create role %I nologin', 'jit_assumable')
where not exists (select from pg_roles where rolname = 'jit_assumable') \gexec
select format('create role %I', name)
from unnest(array[:'password_role', :'auth_user', :'token_role']) as name
where not exists (select from pg_roles where rolname = name) \gexec
alter role :"password_role" login password :'password';
alter role :"auth_user" login password :'auth_password';
alter role :"token_role" login password :'token_password';
grant jit_assumable to :"token_role";

select format('create database %I', :'database')
where not exists (select from pg_database where datname = :'database') \gexec
\connect :database
set client_min_messages = warning;

-- Whoever logs in with a password may make tables; people with a token may read and write them.
grant usage, create on schema public to :"password_role";
grant usage on schema public to :"token_role";
grant select, insert, update, delete on all tables in schema public to :"token_role";
grant usage, select on all sequences in schema public to :"token_role";
alter default privileges for role current_user, :"password_role" in schema public
    grant select, insert, update, delete on tables to :"token_role";
alter default privileges for role current_user, :"password_role" in schema public
    grant usage, select on sequences to :"token_role";

-- The pooler's own role may look up password verifiers and, for `sluice doctor`, the rules for logging in; nothing else.
grant select on pg_catalog.pg_authid, pg_catalog.pg_hba_file_rules, pg_catalog.pg_ident_file_mappings to :"auth_user";
grant execute on function pg_catalog.pg_hba_file_rules(), pg_catalog.pg_ident_file_mappings() to :"auth_user";
