"""Facts: one DuckDB file, one owner process, plain records. Knows no page and no model."""
