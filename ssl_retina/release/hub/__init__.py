"""A foundation checkpoint goes to a folder, an http server or the Hugging Face Hub, and comes back whole.

In: the folder that `release/export.py` wrote, or where one lies. Out: the same four files, every byte
checked against SHA256SUMS before the final name appears.
"""
