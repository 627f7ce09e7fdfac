"""What was done and what came of it, as one self-contained HTML page: begin at `page.py`."""
