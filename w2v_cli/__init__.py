"""Programs: parse, build, run, exit code."""
