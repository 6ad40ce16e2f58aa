"""A trained model over clips."""
