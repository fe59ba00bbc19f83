"""The one reader of data set folders: training and the check read them through it.

`records` puts it together: `layout` finds out how a folder is laid out, `listing` which files count; `lines`,
`parsing`, `tables` and `sidecars` read captions, `names` finds their pictures, `garbled` knows broken text, and `notes`
says in words what was made of it all.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={"layout": ["Layout", "find_layout"], "records": ["Reading", "Record", "read_folder"]},
)
