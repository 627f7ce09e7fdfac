"""Shards -> batches: order by arithmetic, views by recipe."""
