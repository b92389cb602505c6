"""Pages that people open in a browser: the play page and the report, and pictures of episodes."""
