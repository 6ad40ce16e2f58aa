"""One run: build, train, validate, log."""
