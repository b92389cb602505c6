"""Episodes as values, the spaces around them, and the Gymnasium environments."""
