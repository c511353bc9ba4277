"""Errors of a model on a split, and what they are compared with."""
