"""Measures this program beside the bare calls of the libraries that it stands on."""
