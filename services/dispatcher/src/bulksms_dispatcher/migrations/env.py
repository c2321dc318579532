from servicekit.migrations import run_environment

run_environment()
