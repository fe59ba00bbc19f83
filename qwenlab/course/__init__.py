"""The course: what holds the notebooks together.

`tour` runs them in order and lays them out on one page, `claims` reads the ledger of the article's claims,
`exercises` checks answers, `colab` is what their first cell does on Colab, `skipped` what a cell says that needs one
which has not run.
"""
