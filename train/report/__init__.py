"""``python -m train.report``: what a run was trained on and how well it does, as one page and as pictures."""
