"""Input of preprocessing: the users' files, their rows, and the checks that every row passes."""
