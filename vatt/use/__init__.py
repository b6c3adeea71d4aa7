"""Trained models at work: files are embedded, searched and classified."""
