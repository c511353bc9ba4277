"""Users' files: formats, units, and the frames of their grids."""
