"""Changes of a complete set: files added, patients taken out, weights drawn anew; whole or not at all."""
