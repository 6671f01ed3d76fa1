"""From a log in any format that DuckDB reads to memory-mapped arrays in time order."""
