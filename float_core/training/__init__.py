"""The drawn world and the two training phases; the rest of the pack imports nothing of it."""
