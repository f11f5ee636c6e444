"""Learning online: players, losses they meet, regret, and the games they play with each other."""
