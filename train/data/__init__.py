"""Preprocessed data as batches."""
