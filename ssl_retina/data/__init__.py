"""Shards -> batches, in an order that is arithmetic: any position is reached without what came before."""
