"""`w2v-live --serve`: a page that hears in the browser, and transcription in OpenAI's form, on one port."""
