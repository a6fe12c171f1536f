-- beside the ledger's own database `star`, which holds Optuna's studies too, in a schema of their own
CREATE DATABASE mlflow;
CREATE DATABASE mlflow_auth;
