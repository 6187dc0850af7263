"""A run's folder: journal, shards of Parquet, manifest, copies elsewhere, and sequences made from them."""
