"""Constant charges that follow a molecule's geometry, fitted to a trained model, for simulation programs."""
