"""Speed and memory against the direct method or a plain forward pass, as ratios in one run: `make bench`."""
