"""Published claims as experiments: one file for each paper, in folders by family."""
