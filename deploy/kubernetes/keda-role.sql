-- A role for KEDA that may count jobs and see no prompt. Run it once, as the owner of the database, after the tables
-- were made; then give it a password: \password imagen_keda
CREATE ROLE imagen_keda LOGIN;
GRANT USAGE ON SCHEMA imagen TO imagen_keda;
GRANT SELECT (state, model) ON imagen.jobs TO imagen_keda;
