"""NPZ files in, HDF5 shards out: edges once, grids padded into buckets."""
