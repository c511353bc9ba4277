"""``python -m train.report``: data, settings and errors of a run, as one page and as pictures."""
