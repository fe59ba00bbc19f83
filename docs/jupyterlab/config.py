"""JupyterLab for the lessons: `jupyter lab --config=docs/jupyterlab/config.py`, which is what `make lab` calls."""

from pathlib import Path

here = Path(__file__).resolve().parent
c = get_config()  # noqa: F821  (Jupyter provides it)

# The repository is the root, so that configurations, pictures, runs and the README can be opened beside the lessons.
c.ServerApp.root_dir = str(here.parent.parent)
c.LabApp.default_url = "/lab/tree/notebooks/00_start_here.ipynb"
# overrides.json answers the question about Jupyter's news, which would stand on top of the first page: no request to
# a host. `news_url = None` does not take the question away.
c.LabApp.app_settings_dir = str(here)
