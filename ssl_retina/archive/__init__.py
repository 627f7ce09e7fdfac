"""Raw files -> clean, de-identified shards. Nothing here imports torch."""
