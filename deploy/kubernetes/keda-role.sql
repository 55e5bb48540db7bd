-- A role for KEDA that may count jobs and see no prompt. Run it once, as the owner of the database, after the tables
-- were made; then give it the password that is in `keda_connection` of the secret: \password imagen_keda
-- Where the role is there already, only the GRANTs are needed.
CREATE ROLE imagen_keda LOGIN;
GRANT USAGE ON SCHEMA imagen TO imagen_keda;
GRANT SELECT (state, model, run_after) ON imagen.jobs TO imagen_keda;
