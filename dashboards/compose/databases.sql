-- beside the ledger's own database `star`, which holds Optuna's studies in a schema of its own
CREATE DATABASE mlflow;
CREATE DATABASE mlflow_auth;
\connect star
CREATE SCHEMA IF NOT EXISTS star_studies;
