"""What docker-compose.yml needs besides the commands: secrets from files, health probes, optuna-dashboard's login."""
