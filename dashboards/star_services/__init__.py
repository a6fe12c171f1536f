"""What docker-compose.yml needs beside the commands themselves: secrets from files, probes of use, a door before optuna-dashboard."""
