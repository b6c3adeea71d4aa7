"""The data sets of the paper, a module each: `read_<kind>(lists, source)` yields the items of one.

It raises StageError where a list that it needs is missing, lacks a column or cannot be read. A row
that is wrong becomes an item that says why. To add a data set, copy `esc50`, the smallest.
"""
