"""What preprocessing and training agree on: units, array tables, shards, configuration. No JAX here."""
