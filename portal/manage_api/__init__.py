"""The management API: what the dashboard does, for programs with a management key (README.md, "Management API")."""
