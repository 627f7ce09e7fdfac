"""What pretraining is worth on real eyes, IDRiD and HYGD: begin at `path.py`."""
