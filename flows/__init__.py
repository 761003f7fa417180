"""When and where it runs: the command line, Prefect flows, logging. No chemistry."""
