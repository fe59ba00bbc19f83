"""The course: what holds the notebooks together.

`tour` runs them in order and lays them out on one page, `claims` reads the ledger of the article's claims.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__, submod_attrs={"claims": ["load_claims"], "tour": ["run_tour"]}
)
