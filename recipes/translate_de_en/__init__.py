"""`translate-de-en`: a small German to English transformer of the Marian architecture."""
