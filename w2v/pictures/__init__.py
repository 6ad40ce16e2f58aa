"""Arrays to pictures and pages: nothing here knows models, files or programs."""
