"""Use of a trained model: predictions, spectra, exported charges and programs."""
