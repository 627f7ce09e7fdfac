"""Decoded pixels: where the field is, what is stored, how good it is and looks, whether it bears words."""
