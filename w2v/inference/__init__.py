"""A trained model over clips: from audio to features, emissions, words and times."""
