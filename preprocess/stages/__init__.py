"""Stages of preprocessing: what has to be built, the passes over the files, frames and edges."""
