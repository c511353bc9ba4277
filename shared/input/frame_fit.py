"""Placeholder until the branch with the fit is merged."""


def fit_shift(*a):
    raise NotImplementedError
