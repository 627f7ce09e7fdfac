"""A finished run -> a foundation checkpoint with its card."""
