"""Reference data by quantum chemistry (PySCF): from molecules to NPZ pairs in the input format."""
