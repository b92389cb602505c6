"""What chooses viewpoints, how it learns, and how it is judged: `python -m agents --help`."""
