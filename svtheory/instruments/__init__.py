"""Instruments: what is read of the heads of a real model, a bundle in, a labelled dataset out.

An instrument is one module here, named as its command, with `survey(bundle, ...) -> xarray.Dataset`, `rows(dataset)`
and `figure(dataset)`: all that is shown is drawn from the dataset alone. What instruments share stands beside them:
`survey` runs one compiled reading over all heads of a bundle, labels what it finds and corrects p-values for their
number; `sparser` tests which heads need fewer singular vectors than chance would.
"""
