"""The joint PhysNet–DCMNet model and its trainer: HDF5 shards in, a trained model and its errors out."""
