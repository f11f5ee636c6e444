"""How much a mixer remembers, and what that is good for."""
