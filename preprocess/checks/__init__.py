"""Checks of the data: measure molecules, and judge what was measured."""
