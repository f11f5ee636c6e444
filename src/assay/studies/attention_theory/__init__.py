"""What attention learns, and what it can compute."""
