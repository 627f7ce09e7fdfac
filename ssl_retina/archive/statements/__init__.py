"""What is stated about files beside their pixels: by tables, names and recipes."""
